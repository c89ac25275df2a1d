"""What each engine does with adapters that the real PEFT wrote, one for each of its variants."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from lora_cli.engines import choose_engine
from lora_cli.engines.peft import BUILT, IA3_FAMILIES
from lora_cli.judging.base_model import open_base
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.corpus.bases import base_of, write_config
from tests.corpus.goods import OPTIONS, options
from tests.corpus.peft_judge import write_adapter

ENGINES = ("vllm@0.31", "vllm@0.32", "vllm@0.33", "sglang", "peft")
LETTERS = {"ok": "·", "rejects": "R", "crashes": "C", "serves-wrong": "W"}

WANTED: Mapping[str, str] = {
    "plain": "·····",
    "rsLoRA": "···W·",
    "patterns": "W··C·",
    "all-linear": "·····",
    "a regular expression": "···R·",  # q alone: SGLang refuses the string, and looks for v
    "DoRA": "RRRR·",
    "biases on B": "WRRW·",
    "a saved head": "RRRW·",
    "trained tokens": "RRRW·",
    "gaussian": "·····",
    "PiSSA": "WRRW·",
}


@pytest.mark.parametrize("option", WANTED)
def test_what_each_engine_does_with_what_peft_wrote(option: str, tmp_path: Path) -> None:
    llama = base_of("llama")
    write_adapter(llama, options(llama, OPTIONS[option]), tmp_path / "adapter")
    settings = Settings(cache_dir=tmp_path / "cache")
    base = open_base(str(write_config(llama, tmp_path / "base")), settings)

    checked = judge_one(
        Request("", str(tmp_path / "adapter")), Terms(base, engines=tuple(map(choose_engine, ENGINES))), settings
    )

    assert checked.error is None
    letters = "".join(LETTERS[str(one.outcome)] for one in checked.engines)
    assert letters == WANTED[option], [(one.code, one.effects) for one in checked.findings]


def test_ia3_has_defaults_for_the_families_that_peft_has() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as DEFAULTS

    assert {family for family in DEFAULTS if family[0].islower()} == IA3_FAMILIES


def test_each_peft_type_that_peft_builds_is_one_of_its() -> None:
    from peft import PeftType

    assert set(PeftType) >= BUILT
