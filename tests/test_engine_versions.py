"""The vLLM that serves in the manifests is the one that the sets, the CI examples and the pages validate for."""

import re
from collections.abc import Iterator

from lora_cli.engines import ENGINES
from tests.conftest import ROOT

NEWEST = ENGINES["vllm"].versions[-1]

NAMED = re.compile(r"vllm(?:-openai:v|@| |, version: \"?)(\d+\.\d+)", re.IGNORECASE)
"""``vllm/vllm-openai:v0.33.0``, ``vllm@0.33``, ``vLLM 0.33`` and ``engine: {name: vllm, version: "0.33"}``."""

ON_PURPOSE = {
    "docs/api.md": {"0.31"},  # an adapter that 0.31 serves wrongly
    "docs/benchmarks.md": {"0.32"},  # measured
    "docs/cli.md": {"0.31"},  # an example of `engines NAME@VERSION`
    "docs/engines-run.md": {"0.32"},  # the one that make test-engines installs
    "docs/engines.md": set(ENGINES["vllm"].versions[:-1]),  # all profiles
    "docs/fetch.md": {"0.32"},  # measured
    "docs/inspect.md": {"0.32"},  # compared with its buffers
    "docs/validate.md": {"0.31", "0.32"},  # two versions side by side; the one that make test-engines installs
    "docs/vllm.md": {"0.32"},  # the one that make test-engines installs
    "docs/warm.md": {"0.32"},  # the printed result of a run
}
"""The other versions that a page names because it compares or measured them."""


def named() -> Iterator[tuple[str, str]]:
    """Each file that is shipped or shown, with each version of vLLM that it names."""
    shown = [ROOT / "README.md", ROOT / "action.yml", ROOT / ".pre-commit-hooks.yaml", *(ROOT / "docs").glob("*.md")]
    shipped = [file for file in (ROOT / "manifests").rglob("*") if file.suffix in {".yaml", ".md", ".py"}]
    for file in shown + shipped:
        for version in NAMED.findall(file.read_text(encoding="utf-8")):
            yield file.relative_to(ROOT).as_posix(), version


def test_manifests_and_pages_name_one_version_of_vllm_the_newest_that_has_a_profile() -> None:
    others: dict[str, set[str]] = {}
    for file, version in named():
        if version != NEWEST:
            others.setdefault(file, set()).add(version)

    assert others == ON_PURPOSE


def test_what_serves_what_gates_and_what_is_declared_is_looked_at() -> None:
    found = {file for file, _ in named()}

    kubernetes = {f"manifests/kubernetes/{name}.yaml" for name in ("vllm", "endpoint", "sidecar", "job")}
    assert kubernetes <= found
    assert {"manifests/production.yaml", "manifests/ci/gitlab-ci.yaml", "action.yml", "docs/operators.md"} <= found
