"""The real vLLM on the CPU with a base of every family, beside ``validate --engine vllm@0.32`` (``make test-engines``).

``GOLDEN=write`` writes a family's line of tests/real_engines/vllm.md anew: look at the difference before you commit it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_engines.agreement import disagreements, predictions
from tests.real_engines.bases import save
from tests.real_engines.effects import TOLERANCE, Observed
from tests.real_engines.families import BASES, STARTED
from tests.real_engines.family_cases import features
from tests.real_engines.family_oracle import Worker, observed, working
from tests.real_engines.family_page import line_of, read, write
from tests.real_engines.known import FAMILY_DIFFERS, NO_ANSWER

pytestmark = pytest.mark.engines

NO_LORA = "does not support LoRA yet"
"""What vLLM says of a class that has none."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with working(tmp_path_factory.mktemp("vllm")) as started:
        yield started


@pytest.mark.parametrize("family", sorted(BASES))
def test_validate_says_what_vllm_does_with_each_family(
    family: str, worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = BASES[family]
    model, cases = save(base, tmp_path / "base"), features(base, tmp_path / "adapters")

    said = predictions("vllm@0.32", model, list(cases.values()), tmp_path / "verdicts.json")
    run = observed(worker, model, cases, tmp_path / "seen.json", STARTED.get(family, {}))

    line, differ = line_of(family, said, run), disagreements(said, run.seen)
    differ |= {name: f"{name}: loads" for name in run.loaded if said[name].outcome is Observed.REJECTS}
    with capsys.disabled():
        print(f"\n{line}", f"the base is {run.off:.2g} off", *differ.values(), sep="\n  ")
    if os.environ.get("GOLDEN") == "write":
        write(line, family)
    if run.fails and family not in NO_ANSWER:
        assert NO_LORA in run.fails
        assert {one.outcome for one in said.values()} == {Observed.REJECTS}
    assert run.fails or run.off < TOLERANCE
    assert {name for name in differ if (family, name) not in FAMILY_DIFFERS} == set()
    assert read(family) == line
