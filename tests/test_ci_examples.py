"""The examples for CI servers are valid by those servers' own schemas, and the commands in them run as they stand."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from lora_cli.cli.main import main
from tests.ci_runner import environment, run_action, run_job, run_workflow
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

ACTION = ROOT / "action.yml"
INSTALL = "Install"
"""The step that costs most: one test runs it, and the others what is here already."""

CI = ROOT / "manifests" / "ci"
SCHEMAS = {"github-actions.yaml": "vendor.github-workflows", "gitlab-ci.yaml": "vendor.gitlab-ci"}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quickstart's adapters as a repository with a set of its own, whose lock is committed."""
    for name in ("pirate", "zubrowka", "misnested", "smollm2-135m"):
        shutil.copytree(ROOT / "manifests" / "quickstart" / name, tmp_path / "adapters" / name)
    adapters = "".join(f"  - {{name: {name}, source: ./adapters/{name}}}\n" for name in ("pirate", "misnested"))
    (tmp_path / "set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./adapters/smollm2-135m\nadapters:\n{adapters}"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / ".lora-cli"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["fetch", "-f", "set.yaml"]) == 0
    return tmp_path


def test_there_is_a_test_for_each_example() -> None:
    assert {file.name for file in CI.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("file", SCHEMAS)
def test_an_example_is_valid_by_the_schema_of_its_server(file: str) -> None:
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", SCHEMAS[file], str(CI / file)])

    assert done.exit_code == 0, done.output


def commands(file: str) -> list[list[str]]:
    """Each command line of ``lora-cli`` in an example."""
    found: list[list[str]] = []

    def look(node: Any) -> None:
        if isinstance(node, str) and node.startswith("lora-cli "):
            found.append(shlex.split(node.partition(" ||")[0])[1:])
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            look(child)

    look(yaml.safe_load((CI / file).read_text()))
    return found


def git(*argv: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *argv], check=True, capture_output=True)


def shown_for_changed_files() -> str:
    """Both lines of docs/ci.md, as one script."""
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    shown = re.search(r"^ *\$ (set -o pipefail)\n *\$ (git diff .*(\n      .*)*)", page, re.MULTILINE)
    assert shown is not None
    return f"{shown[1]}\n{shown[2]}".replace("models/llama/config.json", str(Path("adapters/smollm2-135m").absolute()))


def test_the_shown_command_for_changed_files_validates_their_adapters_alone(repository: Path) -> None:
    command = shown_for_changed_files()

    def changed() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], env=environment(repository / "bin"), capture_output=True, text=True, check=False
        )

    git("init", "-q")
    git("add", "adapters")
    git("commit", "-qm", "all")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    nothing = changed()
    assert (nothing.returncode, nothing.stdout) == (0, "")

    shutil.move("adapters/pirate", "adapters/a pirate")
    git("add", "-A", "adapters")
    git("commit", "-qm", "one")
    passed = changed()
    assert passed.returncode == 0, passed.stderr
    assert "1 adapter (1 ok)" in " ".join(passed.stdout.split())

    config, weights = (Path("adapters/zubrowka", name) for name in ("adapter_config.json", "adapter_model.safetensors"))
    changes: list[Callable[[], object]] = [
        lambda: config.write_text("{"),
        weights.unlink,
        lambda: weights.rename(weights.with_suffix(".bin")),
        config.unlink,
        lambda: weights.with_name("optimizer.pt").write_bytes(b"cos\nsystem\n(S'id'\ntR."),
        lambda: weights.with_name("chat_template.jinja").write_text("{{ ().__class__.__base__.__subclasses__() }}"),
    ]
    for change in changes:
        change()
        git("add", "-A", "adapters")
        git("commit", "-qm", "two")
        assert changed().returncode == 123
        os.chdir("adapters")
        assert changed().returncode == 123  # paths are from where it runs
        os.chdir("..")
        git("reset", "-q", "--hard", "HEAD~1")

    Path("adapters/pirates").mkdir()
    shutil.move(
        "adapters/zubrowka/adapter_model.safetensors", "adapters/pirates"
    )  # git shows a renaming as one new file
    shutil.copy("adapters/a pirate/adapter_config.json", "adapters/pirates")
    git("add", "-A", "adapters")
    git("commit", "-qm", "three")
    lacks = changed()
    assert lacks.returncode == 123
    assert "LC101 weights-missing" in lacks.stdout

    git("update-ref", "-d", "refs/remotes/origin/main")
    assert changed().returncode == 128  # what git cannot compare is not nothing


def test_the_shown_command_for_changed_files_takes_no_folder_for_an_option_and_no_page_for_an_adapter(
    repository: Path,
) -> None:
    git("init", "-q")
    git("commit", "-qm", "none", "--allow-empty")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    shutil.move("adapters/misnested", "--ignore=LC")
    Path("docs").mkdir()
    Path("docs/our_adapter_model.md").write_text("# Adapters\n")
    git("add", "--", "--ignore=LC", "docs")
    git("commit", "-qm", "one")
    words = ["bash", "-c", shown_for_changed_files()]

    done = subprocess.run(
        words, env=environment(repository / "bin"), capture_output=True, text=True, check=False
    )  # fmt: skip

    assert done.returncode == 123, done.stderr
    assert "LC311" in done.stdout
    assert "1 adapter (1 refused)" in " ".join(done.stdout.split())


@pytest.mark.parametrize("file", SCHEMAS)
def test_the_commands_of_an_example_gate_a_repository(file: str, repository: Path) -> None:
    fetch, validate = commands(file)[:2]

    assert main(fetch) == 0
    assert main(validate) == 1
    suites = {suite.get("name"): suite.get("failures") for suite in ET.parse("lora.xml").getroot()}
    assert suites == {"pirate": "0", "misnested": "1"}
    if file == "github-actions.yaml":
        results = json.loads(Path("lora.sarif").read_text())["runs"][0]["results"]
        at = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in results]
        assert "adapters/misnested/adapter_model.safetensors" in at
        assert "misnested" in Path("summary.md").read_text()
    else:
        assert json.loads(Path("lora.json").read_text())["summary"]["refused"] == 1


@pytest.mark.parametrize("file", SCHEMAS)
def test_what_an_example_collects_is_what_it_writes(file: str) -> None:
    text = (CI / file).read_text()
    written = {word.partition("=")[2] for line in commands(file) for word in line if "=" in word}

    collected = set(re.findall(r"lora\.(?:sarif|xml|json)", re.sub(r"--format \S+", "", text)))
    assert written <= collected
    assert not re.search(r"hf_[A-Za-z0-9]", text)


def test_the_action_is_valid_by_the_schema_of_github() -> None:
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", "vendor.github-actions", str(ACTION)])

    assert done.exit_code == 0, done.output


def test_the_action_installs_itself_writes_its_reports_annotates_and_then_fails(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = tmp_path_factory.mktemp("site")
    own = environment(site, LORA_CLI_CACHE_DIR=str(repository / ".lora-cli"))

    (repository / "LC311").touch()  # what a pattern in the arguments would find, were it one
    ran = run_action(ACTION, {"args": "--engine vllm@0.33 --select LC*"}, repository, own, skip=INSTALL)
    assert (ran.code, ran.outputs["verdict"]) == (2, {"exit-code": "2"}), ran.out  # LC* is an unknown rule
    assert not (repository / "lora.sarif").exists()

    ran = run_action(ACTION, {"args": "--engine vllm@0.33"}, repository, own)

    assert (site / "bin" / "lora-cli").is_file()
    assert (ran.code, ran.outputs["verdict"]) == (1, {"exit-code": "1"}), ran.out
    assert "::error file=adapters/misnested/adapter_model.safetensors" in ran.out
    assert "misnested" in (repository / "summary.md").read_text()
    assert json.loads((repository / "lora.sarif").read_text())["version"] == "2.1.0"
    assert ran.used["github/codeql-action/upload-sarif@v4"] == {"sarif_file": "lora.sarif", "category": "lora-cli"}


def test_the_action_takes_adapters_without_a_set_and_no_input_is_a_command(repository: Path, tmp_path: Path) -> None:
    words, evil = "adapters/pirate --base adapters/smollm2-135m", "$(touch pwned) ;touch pwned"
    given = {"manifest": "", "args": words, "upload": "false"}

    ran = run_action(ACTION, given, repository, environment(tmp_path), skip=INSTALL)
    assert (ran.code, set(ran.used)) == (0, {"actions/setup-python@v6"}), ran.out
    assert "fetch" not in ran.outputs
    given |= {"args": f"{words} {evil}", "sarif": f"{evil}.sarif"}
    run_action(ACTION, given, repository, environment(tmp_path), skip=INSTALL)
    assert not (repository / "pwned").exists()


def test_the_action_without_a_lock_ends_with_3_and_says_that_it_needs_one(repository: Path, tmp_path: Path) -> None:
    (repository / "set.lock.yaml").unlink()
    ran = run_action(ACTION, {}, repository, environment(tmp_path, PYTHONPATH=str(ROOT)), skip=INSTALL)
    assert ran.code == 3
    assert "there is no lock set.lock.yaml" in ran.out
    assert "needs its lock, set.lock.yaml" in yaml.safe_load(ACTION.read_text())["inputs"]["manifest"]["description"]


def test_the_action_fails_when_the_lock_does_not_fit_though_each_adapter_is_fine(
    repository: Path, tmp_path: Path
) -> None:
    text = (repository / "set.yaml").read_text()
    (repository / "set.yaml").write_text(text.replace("misnested", "zubrowka"))
    own = environment(tmp_path, LORA_CLI_CACHE_DIR=str(repository / ".lora-cli"))

    ran = run_action(ACTION, {}, repository, own, skip=INSTALL)

    assert (ran.code, ran.outputs["validate"]["exit-code"]) == (1, "0"), ran.out
    assert failed_steps(ran.out) == ["fetch --locked ended with exit code 1: see the step Fetch what is locked"]


def test_the_action_names_each_step_that_failed_with_its_exit_code(repository: Path, tmp_path: Path) -> None:
    own = environment(tmp_path, LORA_CLI_CACHE_DIR=str(repository / ".lora-cli"))
    judged = "validate ended with exit code 1: see the step Validate"
    passed = {"manifest": "", "args": "adapters/pirate --base adapters/smollm2-135m"}

    assert failed_steps(run_action(ACTION, passed, repository, own, skip=INSTALL).out) == []
    assert failed_steps(run_action(ACTION, {}, repository, own, skip=INSTALL).out) == [judged]
    (repository / "set.lock.yaml").unlink()
    fetched = "fetch --locked ended with exit code 3: see the step Fetch what is locked"
    assert failed_steps(run_action(ACTION, {}, repository, own, skip=INSTALL).out) == [fetched, judged]


def failed_steps(out: str) -> list[str]:
    """The annotations that are about a whole step."""
    return re.findall(r"^::error title=lora-cli::(.*)", out, re.MULTILINE)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a tag, as the host of a repository serves it."""
    file = tmp_path_factory.mktemp("tag") / "v0.1.0.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for name in ("pyproject.toml", "README.md", "LICENSE", "lora_cli"):
            tar.add(ROOT / name, f"lora-cli/{name}", filter=lambda one: None if "__pycache__" in one.name else one)
    return file


def edited(file: str, place: str = "") -> dict[str, Any]:
    """An example as it stands, or with its one line edited, so that what lies at ``place`` is installed."""
    text = (CI / file).read_text()
    text, count = re.subn(r"(INSTALL_LORA_CLI_FROM: )\S+", rf"\g<1>{place}" if place else r"\g<0>", text)
    assert count == 1
    example: dict[str, Any] = yaml.safe_load(text)
    return example


def test_the_workflow_for_github_gates_with_what_its_one_edited_line_installs(
    repository: Path, tmp_path: Path, archive: Path
) -> None:
    site = tmp_path / "site"

    ran = run_workflow(edited("github-actions.yaml", str(archive))["jobs"]["validate"], repository, environment(site))

    assert (site / "bin" / "lora-cli").is_file()
    assert ran.code == 1, ran.out
    assert "::error file=adapters/misnested/adapter_model.safetensors" in ran.out
    assert "misnested" in (repository / "summary.md").read_text()
    assert {"github/codeql-action/upload-sarif@v4", "actions/upload-artifact@v4"} <= ran.used.keys()


def test_the_workflow_for_github_judges_and_reports_what_it_cannot_fetch(repository: Path, tmp_path: Path) -> None:
    (repository / "set.yaml").write_text((repository / "set.yaml").read_text().replace("misnested", "zubrowka"))
    job = edited("github-actions.yaml", str(tmp_path))["jobs"]["validate"]
    job["steps"] = [step for step in job["steps"] if step.get("name") != INSTALL]

    ran = run_workflow(job, repository, environment(tmp_path))

    assert ran.code == 1, ran.out
    assert (repository / "lora.sarif").exists()


def test_an_example_that_nobody_edited_ends_with_2_and_names_the_line(repository: Path, tmp_path: Path) -> None:
    github = edited("github-actions.yaml")
    gitlab = edited("gitlab-ci.yaml")
    own = environment(tmp_path, **gitlab["variables"])

    runs = [run_workflow(github["jobs"]["validate"], repository, environment(tmp_path))]
    runs += [run_job(gitlab[name], repository, own) for name in ("validate-adapters", "adapters-drift")]

    for ran in runs:
        assert ran.code == 2, ran.out
        assert "replace OWNER in INSTALL_LORA_CLI_FROM" in ran.out
    for file in CI.iterdir():
        assert "Edit one line" in file.read_text().partition("\n\n")[0]


def test_every_placeholder_is_explained_where_it_stands() -> None:
    for file in [ACTION, ROOT / ".pre-commit-hooks.yaml", *CI.iterdir(), *(ROOT / "docs").glob("*.md")]:
        text = file.read_text()
        if "OWNER/lora-cli" in text:
            assert "the account that hosts" in " ".join(text.replace("#", " ").split()), file.name


def test_the_jobs_for_gitlab_install_what_their_one_edited_line_names(
    repository: Path, tmp_path: Path, archive: Path
) -> None:
    jobs = edited("gitlab-ci.yaml", str(archive))
    site = tmp_path / "site"

    ran = run_job(jobs["adapters-drift"], repository, environment(site, **jobs["variables"]))

    assert ran.code == 0, ran.out
    assert (site / "bin" / "lora-cli").is_file()


@pytest.mark.parametrize("moved", [False, True])
def test_the_jobs_for_gitlab_gate_and_tell_of_drift(repository: Path, tmp_path: Path, *, moved: bool) -> None:
    jobs = yaml.safe_load((CI / "gitlab-ci.yaml").read_text())
    shim = tmp_path / "shim" / "pip"  # another test installs
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\n")
    shim.chmod(0o755)
    own = environment(tmp_path / "site", LORA_CLI_CACHE_DIR=str(repository / ".lora-cli"))
    own["PATH"] = f"{shim.parent}:{own['PATH']}"
    if moved:
        card = repository / "adapters" / "pirate" / "README.md"
        card.write_text(card.read_text() + "changed" if card.exists() else "changed")

    gate, drift = (run_job(jobs[name], repository, own) for name in ("validate-adapters", "adapters-drift"))

    assert (gate.code, drift.code) == (1, int(moved)), gate.out + drift.out
    suites = {suite.get("name"): suite.get("failures") for suite in ET.parse(repository / "lora.xml").getroot()}
    assert suites == {"pirate": "0", "misnested": "1"}
