"""Numbers of a config that are too large for a float, and their repair."""

from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.engines import choose_engine
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import write_adapter, write_base_config

BEYOND = 10**400


@pytest.mark.parametrize("config", [
    {"lora_alpha": BEYOND}, {"lora_alpha": -BEYOND}, {"lora_alpha": BEYOND, "config": {"use_rslora": True}},
    {"config": {"alpha_pattern": {"q_proj": BEYOND}}},
])  # fmt: skip
def test_an_alpha_beyond_a_float_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", **config)
    terms = Terms(engines=(choose_engine("vllm"), choose_engine("peft")))
    result = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert [str(one.outcome) for one in result.engines] == ["rejects", "rejects"]
    (found,) = (one for one in result.findings if one.code == "LC203")
    assert "not a positive number" in found.problem.message
    assert found.effects.keys() == {"vllm", "peft"}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "peft"])
@pytest.mark.parametrize("alpha", [BEYOND, int(1.7e308)])
def test_repair_ends_with_a_verdict(alpha: int, engine: str, tmp_path: Path) -> None:
    modules = {"a.q_proj": (64, 64), "a.v_proj": (64, 64)}
    adapter = write_adapter(tmp_path / "adapter", lora_alpha=alpha, modules=modules)
    base = write_base_config(tmp_path / "base").parent

    assert main(["repair", str(adapter), "--engine", engine, "--base", str(base), "--check"]) in {0, 1}
