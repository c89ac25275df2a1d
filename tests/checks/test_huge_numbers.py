"""Numbers of a config that are too large for a float, or for any memory, are findings and outcomes like others."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.engines import choose_engine
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import write_adapter, write_base_config

BEYOND = 10**400


def judged(adapter: Path, *engines: str) -> Result:
    terms = Terms(engines=tuple(map(choose_engine, engines)))
    return judge_one(Request("", str(adapter)), terms, Settings(cache_dir=adapter.parent / "cache"))


def edited(config: Path, **fields: Any) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))


def said(checked: Result) -> dict[str, tuple[str, set[str]]]:
    """What each engine makes of it, and because of which checks."""
    assert checked.error is None, checked.error
    return {
        one.engine: (str(one.outcome), {found.code for found in checked.findings if one.asked in found.effects})
        for one in checked.engines
    }


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": BEYOND},
        {"lora_alpha": -BEYOND},
        {"lora_alpha": BEYOND, "config": {"use_rslora": True}},
        {"config": {"alpha_pattern": {"q_proj": BEYOND}}},
    ],
)
def test_an_alpha_beyond_a_float_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    checked = judged(write_adapter(tmp_path / "adapter", **config), "vllm", "peft")

    for outcome, codes in said(checked).values():
        assert outcome == "rejects"
        assert "LC203" in codes
    assert "not a positive number" in {one.code: one.problem.message for one in checked.findings}["LC203"]


@pytest.mark.parametrize("rank", [2**24, 2**24 + 1, 10**9, 10**30])
@pytest.mark.parametrize("field", ["r", "rank_pattern"])
def test_a_rank_that_no_tensor_has_is_above_every_limit(rank: int, field: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    edited(adapter / "adapter_config.json", **{field: rank if field == "r" else {"q_proj": rank}})

    outcomes = said(judged(adapter, "vllm@0.33", "peft"))

    assert outcomes["vllm"][0] == "rejects"
    assert "LC401" in outcomes["vllm"][1]
    assert outcomes["peft"] == ("rejects", {"LC301"})


@pytest.mark.parametrize(("rank", "because"), [(1e9, "LC401"), (float("inf"), "LC202"), (BEYOND, "LC202")])
def test_a_rank_that_is_no_usable_integer_is_not_forgotten(rank: float, because: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    edited(adapter / "adapter_config.json", r=rank)

    outcome, codes = said(judged(adapter, "vllm@0.33"))["vllm"]

    assert outcome == "rejects"
    assert because in codes


@pytest.mark.parametrize("engine", ["vllm", "sglang", "peft"])
@pytest.mark.parametrize("alpha", [BEYOND, int(1.7e308)])
def test_repair_ends_with_a_verdict(alpha: int, engine: str, tmp_path: Path) -> None:
    adapter = write_adapter(
        tmp_path / "adapter", lora_alpha=alpha, modules={"a.q_proj": (64, 64), "a.v_proj": (64, 64)}
    )
    base = write_base_config(tmp_path / "base").parent

    assert main(["repair", str(adapter), "--engine", engine, "--base", str(base), "--check"]) in {0, 1}
