"""The rules about sizes speak of updates that are huge, far beyond the others, or negligible, and of no other."""

from pathlib import Path

import numpy as np
import pytest

from lora_cli.judging.judge import Terms, judge_one
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.settings import load_settings
from tests.making import lora_tensors, raw, write_adapter

MODULES = {f"model.layers.{layer}.self_attn.q_proj": (64, 32) for layer in range(9)}
SETTINGS = load_settings({}, {"HOME": "/nowhere"})
SIZES = {
    "usual": (0, 0, 0, 0, 0, 0, 0, 0, 0),
    "spread": (-1, 0, 1, -1, 1, 0, -1, 0, 1),
    "one beyond the others": (0, 0, 0, 0, 0, 0, 0, 0, 1.2),
    "one far beyond the others": (-2, -2, -2, -2, -2, -2, -2, -2, 1.5),
    "huge": (2, 2, 2, 2, 2, 2, 2, 2, 2),
    "beyond float16": (0, 0, 0, 0, 0, 0, 0, 0, 3.5),
    "negligible": (-8, -8, -8, -8, -8, -8, -8, -8, -8),
    "hardly negligible": (-1.4, -1.4, -1.4, -1.4, -1.4, -1.4, -1.4, -1.4, -1.4),
    "hardly enough": (-0.8, -0.8, -0.8, -0.8, -0.8, -0.8, -0.8, -0.8, -0.8),
    "mostly zero": (0, -30, -30, -30, -30, -30, -30, -30, -30),
}
EXPECTED = {
    "one far beyond the others": {"LC504"},
    "huge": {"LC504"},
    "beyond float16": {"LC504"},
    "negligible": {"LC505"},
    "hardly negligible": {"LC505"},
    "mostly zero": {"LC504"},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", SIZES)
def test_only_unusual_sizes_are_told(tmp_path: Path, name: str, dtype: str) -> None:
    powers = dict(zip(MODULES, SIZES[name], strict=True))
    random = np.random.default_rng(0)
    tensors = {}
    for key, one in lora_tensors(MODULES).items():
        power = powers[key.removeprefix("base_model.model.").partition(".lora_")[0]]
        values = random.standard_normal(one.shape) * 0.02 * 10.0**power
        tensors[key] = raw(values.clip(-6e4, 6e4), dtype)
    write_adapter(tmp_path, modules=MODULES, tensors=tensors)

    codes = {finding.code for finding in verdict(tmp_path).findings}
    assert codes & {"LC504", "LC505"} == EXPECTED.get(name, set())


def verdict(directory: Path) -> Result:
    checked = judge_one(Request("", str(directory)), Terms(), SETTINGS)
    assert checked.error is None
    return checked
