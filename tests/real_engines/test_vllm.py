"""The real vLLM on the CPU beside ``validate --engine vllm@0.32``: run by ``make test-engines``, which installs it."""

from pathlib import Path

import pytest

from tests.real_engines import vllm_oracle
from tests.real_engines.agreement import disagreements, holds, predictions, report
from tests.real_engines.bases import SERVED, save
from tests.real_engines.cases import given
from tests.real_engines.known import VLLM

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("family", SERVED)
def test_validate_says_what_vllm_does(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save(SERVED[family], tmp_path / "base")
    adapters = given(SERVED[family], tmp_path / "adapters")

    seen = list(vllm_oracle.observed(base, adapters, tmp_path / "vllm.log"))
    differ = disagreements(predictions("vllm@0.32", base, adapters, tmp_path / "verdicts.json"), seen)

    told = report(f"vLLM 0.32 on {family}", seen, differ, VLLM)
    with capsys.disabled():
        print(f"\n{told}")
    assert len(seen) == len(adapters)
    assert holds("vllm", seen, differ, VLLM), told
