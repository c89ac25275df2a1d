"""Null in each field of a config, and what the real PEFT makes of it."""

import json
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from lora_cli.adapter.config import PEFT_FIELDS
from lora_cli.finding import Severity
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import llama_modules, write_adapter
from tests.peft.peft_models import as_base, layers_of, tiny_model

REFUSED = {"peft_type", "r", "lora_alpha", "lora_dropout", "bias", "rank_pattern", "alpha_pattern"}
"""The fields in which PEFT fails on null."""


@pytest.mark.parametrize("field", [one for one in PEFT_FIELDS if one != "target_modules"])
def test_null_is_an_error_in_exactly_the_fields_in_which_peft_fails_on_it(field: str, tmp_path: Path) -> None:
    """But for ``target_modules``, where PEFT guesses and engines refuse."""
    write_adapter(tmp_path, modules=llama_modules())
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {field: None}))
    verdict = judge_one(Request("", str(tmp_path)), Terms(as_base(tiny_model("llama"))), Settings(tmp_path / "cache"))
    assert verdict.error is None
    errors = [found for found in verdict.findings if found.severity is Severity.ERROR]
    peft = import_module("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            layers = layers_of(peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path))
        except (KeyError, TypeError, AttributeError):
            assert field in REFUSED
            assert errors
        else:
            assert set(layers) == set(llama_modules())
            assert {layer.scaling for layer in layers.values()} == {2.0}
            assert errors == []
