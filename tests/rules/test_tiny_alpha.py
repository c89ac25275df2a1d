"""An alpha that is as good as 0 disables the adapter."""

from pathlib import Path
from typing import Any

import pytest

from lora_cli.engines import choose_engine
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import write_adapter


@pytest.mark.parametrize("config", [{"lora_alpha": 1e-30}, {"config": {"alpha_pattern": {"q_proj": 1e-30}}}])
def test_an_alpha_next_to_nothing_is_as_bad_as_zero(config: dict[str, Any], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", **config)
    terms = Terms(engines=tuple(map(choose_engine, ("vllm@0.32", "peft"))))

    checked = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert checked.error is None
    found = {finding.code: finding.problem.message for finding in checked.findings}
    assert "the adapter does nothing" in found["LC203"]
    assert {one.outcome.label for one in checked.engines} == {"serves wrong"}
