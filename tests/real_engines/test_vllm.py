"""The real vLLM on the CPU beside ``validate --engine vllm@0.32``, and on what ``repair`` wrote."""

from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.engines import choose_engine
from lora_cli.errors import LoraCliError
from lora_cli.finding import Deployment
from lora_cli.judging.read import open_base
from lora_cli.refs.request import Request
from lora_cli.repair import RepairOptions, repair_adapter
from lora_cli.settings import Settings
from tests.real_engines.agreement import Observed, disagreements, predictions
from tests.real_engines.bases import SERVED, save
from tests.real_engines.cases import MAX_LORA_RANK, Case, Cases, given, possible
from tests.real_engines.vllm_server import observed

pytestmark = pytest.mark.engines

KEPT = frozenset(
    {"an unknown bias", "an unknown initialisation", "replication in the config", "a task that nobody knows"}
)
"""What vLLM refuses and another engine does not look at: repaired for that one it stays so."""

ABOVE = frozenset({"a rank above it in a pattern"})
"""What has a larger rank than the server is started for, in every module once it is padded."""


@pytest.mark.parametrize("family", SERVED)
def test_validate_says_what_vllm_does(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save(SERVED[family], tmp_path / "base")
    adapters = given(SERVED[family], tmp_path / "adapters")

    seen = list(observed(base, adapters, tmp_path / "vllm.log"))
    differ = disagreements(predictions("vllm@0.32", base, adapters, tmp_path / "verdicts.json"), seen)

    with capsys.disabled():
        print(f"\nvLLM on {family}: {len(seen) - len(differ)} of {len(seen)} agree", *differ.values(), sep="\n  ")
    assert len(seen) == len(adapters)
    assert differ == {}


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
def test_vllm_serves_what_was_repaired_as_it_was_trained(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(SERVED[family], tmp_path / "base")
    adapters = [case for case in repaired(family, base, tmp_path) if case.name.partition(" ")[2] not in KEPT | ABOVE]

    seen = list(observed(base, adapters, tmp_path / "vllm.log"))

    wrong = [f"{one.name}: {one.observed.value} {one.said[:200]}" for one in seen if one.observed is not Observed.OK]
    with capsys.disabled():
        print(f"\nvLLM on {family}: {len(seen) - len(wrong)} of {len(seen)} repaired are right", *wrong, sep="\n  ")
    assert len(seen) > 30
    assert wrong == []


def repaired(family: str, base: Path, folder: Path) -> list[Case]:
    """Every case of the family that was mended for vLLM or SGLang, as it was written."""
    cases, settings = Cases(SERVED[family], folder / "adapters"), Settings(cache_dir=folder / "cache")
    model, found = open_base(str(base), settings), []
    for engine in ("vllm@0.32", "sglang"):
        profile = choose_engine(engine)
        deployment = Deployment(max_lora_rank=MAX_LORA_RANK if profile.engine.default_rank else None)
        for name in possible(SERVED[family]):
            options = RepairOptions(profile, model, deployment, folder / "repaired" / engine / name)
            try:
                made = repair_adapter(Request("", str(cases[name].directory)), options, settings)
            except LoraCliError:
                continue
            if made.directory is not None and made.changes and not made.flags:
                found.append(replace(cases[name], name=f"{engine} {name}", directory=Path(made.directory)))
    return found
