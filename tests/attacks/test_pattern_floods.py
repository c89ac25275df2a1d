"""Configs with more names and patterns than any base has modules: matched within one deadline, or refused."""

from pathlib import Path
from typing import Any

import pytest

from tests.attacks.measured import bounded
from tests.making import write_adapter, write_base_config
from tests.peft.test_patterns import SLOW

pytestmark = pytest.mark.slow

MANY = 100_000
NAMES = [f"name{number}" for number in range(MANY)]
DOTTED = [f"model.layers.{number}.mlp.gate_proj" for number in range(MANY // 4)]
ODD = [f"x.{'y' * (number % 300)}.{'z' * (number // 300)}" for number in range(MANY // 4)]
PATTERNS = [rf"name[{number}]" for number in range(MANY // 4)]
ENGINES = [word for engine in ("vllm", "sglang", "peft") for word in ("--engine", engine)]


def everywhere(names: list[str]) -> dict[str, Any]:
    patterns = {"rank_pattern": dict.fromkeys(names, 8), "alpha_pattern": dict.fromkeys(names, 16)}
    return {**patterns, "modules_to_save": names, "target_modules": ["q_proj", *names], "exclude_modules": names}


CONFIGS: dict[str, dict[str, Any]] = {
    "names": everywhere(NAMES),
    "paths": everywhere(DOTTED),
    "names of as many shapes": everywhere(ODD),
    "patterns": everywhere(PATTERNS),
    "a slow pattern": {**everywhere([SLOW]), "target_modules": SLOW, "exclude_modules": SLOW},
    "parameters": {"target_parameters": [f"experts.{name}" for name in NAMES], "modules_to_save": NAMES},
    "tokens": {"trainable_token_indices": {name: [1] for name in NAMES}},
    "layers": {"layers_to_transform": list(range(MANY * 2))},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_whatever_a_config_lists_it_is_judged_in_time(name: str, tmp_path: Path) -> None:
    base = write_base_config(tmp_path / "base", num_hidden_layers=40).parent
    modules = {f"model.layers.{layer}.self_attn.{part}_proj": (64, 64) for layer in range(40) for part in "qo"}
    adapter = write_adapter(tmp_path / "adapter", modules=modules, config=CONFIGS[name])
    run = bounded("validate", adapter, "--base", base, *ENGINES)
    assert run.code == 1, run.out
    assert "LC208" in run.out or name not in {"patterns", "a slow pattern"}
    bounded("repair", adapter, "--engine", "vllm", "--base", base, "--check")
    bounded("inspect", adapter)
