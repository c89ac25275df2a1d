"""Sizes of updates that are told, and numbers of a config that are too large for a float, with their repair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.cli.main import main
from lora_cli.engines import choose_engine
from lora_cli.judging.judge import judge_one
from lora_cli.judging.read import Terms
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import lora_tensors, raw, write_adapter, write_base_config

MODULES = {f"model.layers.{layer}.self_attn.q_proj": (64, 32) for layer in range(9)}
BEYOND = 10**400


def judged(adapter: Path, *engines: str) -> Result:
    terms = Terms(Settings(cache_dir=adapter.parent / "cache"), engines=tuple(map(choose_engine, engines)))
    result = judge_one(Request("", str(adapter)), terms)
    assert result.error is None
    return result


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize(("usual", "last", "expected"), [
    (0, 0, set()), (0, 1.2, set()), (-2, 1.5, {"LC504"}), (2, 2, {"LC504"}), (0, 3.5, {"LC504"}),
    (-8, -8, {"LC505"}), (-1.4, -1.4, {"LC505"}), (-0.8, -0.8, set()), (-30, 0, {"LC504"}),
])  # fmt: skip
def test_only_unusual_sizes_are_told(tmp_path: Path, usual: float, last: float, expected: set[str], dtype: str) -> None:
    """The sizes are powers of ten, of all modules but one and of that one."""
    random, tensors = np.random.default_rng(0), {}
    for name, one in lora_tensors(MODULES).items():
        values = random.standard_normal(one.shape) * 0.02 * 10.0 ** (last if ".layers.8." in name else usual)
        tensors[name] = raw(values.clip(-6e4, 6e4), dtype)
    write_adapter(tmp_path / "adapter", modules=MODULES, tensors=tensors)

    codes = {found.code for found in judged(tmp_path / "adapter").findings}
    assert codes & {"LC504", "LC505"} == expected


@pytest.mark.parametrize("config", [
    {"lora_alpha": BEYOND}, {"lora_alpha": -BEYOND}, {"lora_alpha": BEYOND, "config": {"use_rslora": True}},
    {"config": {"alpha_pattern": {"q_proj": BEYOND}}},
])  # fmt: skip
def test_an_alpha_beyond_a_float_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    result = judged(write_adapter(tmp_path / "adapter", **config), "vllm", "peft")

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
