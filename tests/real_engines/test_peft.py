"""The installed PEFT beside ``validate --engine peft``: run by ``make test-engines``."""

from pathlib import Path

import pytest

from tests.real_engines import peft_oracle
from tests.real_engines.agreement import disagreements, holds, predictions, report
from tests.real_engines.bases import SERVED, save
from tests.real_engines.cases import given
from tests.real_engines.known import PEFT

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("family", SERVED)
def test_validate_says_what_peft_does(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save(SERVED[family], tmp_path / "base")
    adapters = given(SERVED[family], tmp_path / "adapters")

    seen = list(peft_oracle.observed(adapters))
    differ = disagreements(predictions("peft", base, adapters, tmp_path / "verdicts.json"), seen)

    told = report(f"PEFT on {family}", seen, differ, PEFT)
    with capsys.disabled():
        print(f"\n{told}")
    assert len(seen) == len(adapters)
    assert holds("peft", seen, differ, PEFT), told
