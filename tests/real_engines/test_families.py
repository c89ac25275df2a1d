"""The real vLLM on the CPU with a base of every family, beside ``validate --engine vllm@0.32`` (``make test-engines``).

``GOLDEN=write`` writes a family's line of vllm.md here anew: look at the difference before you commit it.
"""

import datetime as dt
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from lora_cli.base.families import FAMILIES
from lora_cli.engines.vllm import NO_LORA
from tests.real_engines.agreement import TOLERANCE, Observed, disagreements, predictions
from tests.real_engines.bases import save
from tests.real_engines.families import BASES, FAMILY_DIFFERS, NO_ANSWER, STARTED
from tests.real_engines.family_cases import FEATURES, features
from tests.real_engines.family_oracle import Run, Worker, observed
from tests.real_engines.test_classes import MODELS, NO_SUPPORT

PAGE = Path(__file__).with_name("vllm.md")
LETTERS = {Observed.OK: "·", Observed.REJECTS: "R", Observed.CRASHES: "C", Observed.SERVES_WRONG: "W"}


@pytest.mark.engines
@pytest.mark.parametrize("family", sorted(BASES))
def test_validate_says_what_vllm_does_with_each_family(
    family: str, worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = BASES[family]
    model, cases = save(base, tmp_path / "base"), features(base, tmp_path / "adapters")

    predicted = predictions("vllm@0.32", model, list(cases.values()), tmp_path / "verdicts.json")
    run = observed(worker, model, cases, tmp_path / "seen.json", STARTED.get(family, {}))

    said, differ = {name: outcome for name, (outcome, _) in predicted.items()}, disagreements(predicted, run.seen)
    differ |= {name: f"{name}: loads" for name in run.loaded if said[name] is Observed.REJECTS}
    line = line_of(family, said, run)
    with capsys.disabled():
        print(f"\n{line}", f"the base is {run.off:.2g} off", *differ.values(), sep="\n  ")
    if os.environ.get("GOLDEN") == "write":
        text = re.sub(r"\d{4}-\d\d-\d\d", dt.date.today().isoformat(), PAGE.read_text(encoding="utf-8"), count=1)
        PAGE.write_text(text.replace(lines()[family], line), encoding="utf-8")
    if run.fails and family not in NO_ANSWER:
        assert NO_SUPPORT in run.fails
        assert {*said.values()} == {Observed.REJECTS}
    assert run.fails or run.off < TOLERANCE
    assert {name for name in differ if (family, name) not in FAMILY_DIFFERS} == set()
    assert lines()[family] == line


def line_of(family: str, said: Mapping[str, Observed], run: Run) -> str:
    """The family's line of the table: what ``validate`` says of each feature, and what vLLM did."""
    seen = {one.name: LETTERS[one.observed] for one in run.seen} | dict.fromkeys(run.loaded, "L")
    cells = [f"{LETTERS[said[name]]}/{seen.get(name, '–')}" if name in said else "" for name in FEATURES]
    return (
        f"| {' | '.join([family, *cells, run.fails.partition(chr(10))[0][:200].strip().replace('|', chr(92) + '|')])} |"
    )


def lines() -> dict[str, str]:
    """Every line of the page's table by its family."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {name: line for line in rows if (name := line[2:].partition(" |")[0]) in BASES}


def test_every_family_has_a_base_and_every_base_a_line() -> None:
    assert BASES.keys() >= FAMILIES.keys()
    assert lines().keys() == BASES.keys()


def test_the_families_without_lora_are_those_that_vllm_said_it_of() -> None:
    assert {family for family, line in lines().items() if NO_SUPPORT in line} == NO_LORA & lines().keys()
    # The others have no line: a class of each is run.
    assert NO_LORA - lines().keys() <= {architecture.partition("For")[0].lower() for architecture in MODELS}
    assert {family for family, line in lines().items() if "/L" in line} == NO_ANSWER.keys()
