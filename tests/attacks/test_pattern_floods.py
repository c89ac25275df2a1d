"""Configs with more names and patterns than any base has modules: matched in 3 seconds in all, or refused."""

import time
from pathlib import Path
from typing import Any

import pytest

from lora_cli.adapter.config import parse_config
from lora_cli.errors import FormatError
from lora_cli.peft.patterns import Matcher, PatternKeys, one_budget
from lora_cli.peft.targets import scales, targeted
from tests.attacks.measured import lora_cli
from tests.making import REMOVE, write_adapter, write_base_config
from tests.slow import slowly

pytestmark = pytest.mark.slow

MANY = 100_000
NAMES = [f"name{number}" for number in range(MANY)]
DOTTED = [f"model.layers.{number}.mlp.gate_proj" for number in range(MANY)]
ODD = [f"x.{'y' * (number % 300)}.{'z' * (number // 300)}" for number in range(MANY // 4)]
PATTERNS = [rf"name[{number}]" for number in range(MANY // 4)]
SLOW = "".join(f"(?P<{group}>.*)" for group in "abcdefgh") + "".join(f"(?P={group})" for group in "hgfedcba") + "model"
ENGINES = [word for engine in ("vllm", "sglang", "peft") for word in ("--engine", engine)]

CONFIGS: dict[str, dict[str, Any]] = {
    "names in every field": {
        "rank_pattern": dict.fromkeys(NAMES, 8),
        "alpha_pattern": dict.fromkeys(NAMES, 16),
        "modules_to_save": NAMES,
        "target_modules": ["q_proj", *NAMES],
        "exclude_modules": NAMES,
    },
    "paths in every field": {
        "rank_pattern": dict.fromkeys(DOTTED[: MANY // 4], 8),
        "alpha_pattern": dict.fromkeys(DOTTED[: MANY // 4], 16),
        "modules_to_save": DOTTED[: MANY // 4],
        "target_modules": ["q_proj", *DOTTED[: MANY // 4]],
    },
    "names of as many shapes": {"rank_pattern": dict.fromkeys(ODD, 8), "alpha_pattern": dict.fromkeys(ODD, 8)},
    "patterns": {"rank_pattern": dict.fromkeys(PATTERNS, 8), "alpha_pattern": dict.fromkeys(PATTERNS, 8)},
    "a slow pattern in every field": {
        "rank_pattern": {SLOW: 8},
        "alpha_pattern": {SLOW: 8},
        "modules_to_save": [SLOW],
        "target_modules": SLOW,
        "exclude_modules": SLOW,
    },
    "parameters": {"target_parameters": [f"experts.{name}" for name in NAMES], "modules_to_save": NAMES},
    "tokens": {"trainable_token_indices": {name: [1] for name in NAMES}},
    "blocks": {"use_bdlora": {"target_modules_bd_a": NAMES, "target_modules_bd_b": ["z"], "match_strict": False}},
    "layers": {"layers_to_transform": list(range(MANY * 2))},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_config(tmp_path_factory.mktemp("base"), num_hidden_layers=40).parent


@pytest.mark.parametrize("name", CONFIGS)
def test_whatever_a_config_lists_it_is_judged_in_time(name: str, tmp_path: Path, base: Path) -> None:
    modules = {f"model.layers.{layer}.self_attn.{part}_proj": (64, 64) for layer in range(40) for part in "qo"}
    adapter = write_adapter(tmp_path / "adapter", modules=modules, config=CONFIGS[name])
    run = lora_cli("validate", adapter, "--base", base, *ENGINES)
    assert run.code == 1, run.out
    assert run.cpu_s < 8, run.out
    assert run.peak_mb < 300


@pytest.mark.parametrize(
    "name", slowly(("names in every field", "a slow pattern in every field", "patterns"), "names in every field")
)
def test_repair_and_inspect_have_the_same_bound(name: str, tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", config=CONFIGS[name])
    for command in (["repair", adapter, "--engine", "vllm", "--base", base, "--check"], ["inspect", adapter]):
        assert lora_cli(*command).cpu_s < 8


def test_what_takes_too_long_is_an_error_and_never_ok(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", config={"rank_pattern": {"q_proj": 4, SLOW: 4}})
    run = lora_cli("validate", adapter, "--base", "none")
    assert run.code == 1
    assert "LC208" in run.out
    assert "matching takes longer than 3 s" in " ".join(run.out.split())


def test_an_adapter_that_names_each_of_its_modules_is_no_hardship() -> None:
    modules = [
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj"
        for layer in range(94)
        for expert in range(64)
        for part in ("gate", "up", "down")
    ]
    config = parse_config(
        {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": modules}
        | {"rank_pattern": dict.fromkeys(modules, 4), "alpha_pattern": dict.fromkeys(modules, 8)}
    )
    with one_budget() as budget:
        assert set(scales(config, modules).values()) == {scales(config, modules[:1])[modules[0]]}
        assert len(targeted(config, modules)) == len(modules)
    assert budget.left_s > 1.5


KEYS = ["q_proj", "layers.1.q_proj", "layersX1Xq_proj", r".*\.k_proj", "k_proj", "", "q", "a.b", ".b", "mlp-0", "x\ty"]
MODULES = ["q_proj", "a.q_proj", "m.layers.1.q_proj", "m.layersX1Xq_proj", "k_proj", "m.k_proj", "", "aXb", "x.aXb"]


@pytest.mark.parametrize("module", [*MODULES, "a.b\n", "a\nb", "m.mlp-0", "q_proj\n", ".b", "x."])
def test_names_that_are_looked_up_match_as_the_patterns_that_they_are(module: str) -> None:
    matcher = Matcher("f")
    wanted = [key for key in KEYS if matcher.dotted_end(key, module)]
    keys = PatternKeys(KEYS, "f")
    assert list(keys.matching(module)) == wanted
    assert keys.first(module) == (wanted[0] if wanted else None)
    assert set(keys.dead([module])) == {key for key in KEYS if key not in wanted and key != module}


def test_one_budget_is_for_all_that_ask_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.patterns.TIME_LIMIT_S", 0.2)
    begun = time.perf_counter()
    with one_budget() as budget:
        for field in ("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "modules_to_save") * 20:
            with pytest.raises(FormatError, match=r"takes longer than 0\.2 s"), one_budget():
                Matcher(field).full(SLOW, "model.layers.0.self_attn.q_proj")
    assert budget.spent
    assert time.perf_counter() - begun < 2


def test_long_patterns_of_one_adapter_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.peft.patterns.TIME_LIMIT_S", 60.0)  # on a busy machine the time would be over first
    with one_budget():
        for number in range(3):
            Matcher("f").full("a" * 60_000 + f"{number}+", "model")
        with pytest.raises(FormatError, match="too large in total"):
            Matcher("f").full("a" * 60_000 + "3+", "model")


def test_a_config_without_targets_is_judged_as_before(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", config={"target_modules": REMOVE})
    assert "LC205" in lora_cli("validate", adapter, "--base", "none").out
