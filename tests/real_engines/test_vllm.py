"""The real vLLM on the CPU beside ``validate --engine vllm@0.32``, and on what ``repair`` wrote: make test-engines."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.base.families import FAMILIES
from lora_cli.engines import choose_engine
from lora_cli.engines.vllm import NO_LORA
from lora_cli.errors import LoraCliError
from lora_cli.finding import Deployment, Outcome
from lora_cli.judging.base_model import open_base
from lora_cli.refs.request import Request
from lora_cli.repair import RepairOptions, repair_adapter
from lora_cli.settings import Settings
from tests.real_engines.agreement import TOLERANCE, disagreements, predictions
from tests.real_engines.bases import SERVED, save
from tests.real_engines.cases import MAX_LORA_RANK, Case, Cases, given, possible
from tests.real_engines.families import BASES, NO_ANSWER, NOT_COMPARED, STARTED
from tests.real_engines.family_cases import features
from tests.real_engines.vllm_oracle import NO_SUPPORT, Run, Worker, observed

KEPT = frozenset(
    {"an unknown bias", "an unknown initialisation", "replication in the config", "a task that nobody knows"}
)
"""What vLLM refuses and another engine does not look at: repaired for that one it stays so."""

ABOVE = frozenset({"a rank above it in a pattern"})
"""What has a larger rank than the server is started for, in every module once it is padded."""

Compare = Callable[..., tuple[dict[str, Outcome], Run, dict[str, str]]]


@pytest.fixture
def compared(worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """What ``validate`` says of each case, what vLLM did with them, and where the two differ, which is shown."""

    def compare(model: Path, cases: Mapping[str, Case], flags: Mapping[str, Any]) -> Any:
        predicted = predictions("vllm@0.32", model, list(cases.values()), tmp_path / "verdicts.json")
        run = observed(worker, model, cases, tmp_path / "seen.json", flags)
        said, differ = {name: outcome for name, (outcome, _) in predicted.items()}, disagreements(predicted, run.seen)
        differ |= {name: f"{name}: loads" for name in run.loaded if said[name] is Outcome.REJECTS}
        with capsys.disabled():
            print(f"\n{len(run.seen)} seen, {len(differ)} differ; {run.fails}", *differ.values(), sep="\n  ")
        return said, run, differ

    return compare


@pytest.mark.engines
@pytest.mark.parametrize("family", SERVED)
def test_validate_says_what_vllm_does(family: str, compared: Compare, tmp_path: Path) -> None:
    cases = given(SERVED[family], tmp_path / "adapters")
    _, run, differ = compared(save(SERVED[family], tmp_path / "base"), cases, {})
    assert len(run.seen) == len(cases)
    assert differ == {}


@pytest.mark.engines
@pytest.mark.parametrize("family", sorted(BASES))
def test_validate_says_what_vllm_does_with_each_family(family: str, compared: Compare, tmp_path: Path) -> None:
    base = BASES[family]
    model, cases = save(base, tmp_path / "base"), features(base, tmp_path / "adapters")
    said, run, differ = compared(model, cases, STARTED.get(family, {}))
    assert (NO_SUPPORT in run.fails) == (family in NO_LORA)
    assert bool(run.fails) == (family in NO_LORA | NO_ANSWER)
    assert family not in NO_LORA or {*said.values()} == {Outcome.REJECTS}
    assert run.fails or run.off < TOLERANCE
    assert {name for name in differ if (family, name) not in NOT_COMPARED} == set()


def test_every_family_has_a_base() -> None:
    assert BASES.keys() >= FAMILIES.keys()


@pytest.mark.engines
@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3"])
def test_vllm_serves_what_was_repaired_as_it_was_trained(family: str, worker: Worker, tmp_path: Path) -> None:
    base = save(SERVED[family], tmp_path / "base")
    run = observed(worker, base, repaired(family, base, tmp_path), tmp_path / "seen.json", {})
    assert len(run.seen) > 30
    assert [one for one in run.seen if one.observed is not Outcome.OK] == []


def repaired(family: str, base: Path, folder: Path) -> dict[str, Case]:
    """Every case of the family that was mended for vLLM or SGLang, as it was written."""
    cases, settings = Cases(SERVED[family], folder / "adapters"), Settings(cache_dir=folder / "cache")
    model, found = open_base(str(base), settings), {}
    for engine in ("vllm@0.32", "sglang"):
        profile = choose_engine(engine)
        deployment = Deployment(max_lora_rank=MAX_LORA_RANK if profile.engine.default_rank else None)
        for name in (one for one in possible(SERVED[family]) if one not in KEPT | ABOVE):
            options = RepairOptions(profile, model, deployment, folder / "repaired" / engine / name)
            try:
                made = repair_adapter(Request("", str(cases[name].directory)), options, settings)
            except LoraCliError:
                continue
            if made.directory is not None and made.changes and not made.flags:
                label = f"{engine} {name}"
                found[label] = replace(cases[name], name=label, directory=Path(made.directory))
    return found
