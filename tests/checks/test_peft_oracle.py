"""No false alarm: what the real PEFT writes, with every option that it has, is never an error on its own base."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from lora_cli.adapter.config import PEFT_FIELDS
from lora_cli.base.families import base_from_config
from lora_cli.finding import Severity
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import base_config, llama_modules, write_adapter
from tests.peft.peft_cases import CASES
from tests.peft.peft_models import Written, as_base, layers_of, tiny_model


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_that_peft_wrote_is_no_error(
    name: str, peft_wrote: Callable[[str], Written], tmp_path: Path
) -> None:
    case, written = CASES[name], peft_wrote(name)
    settings = Settings(cache_dir=tmp_path / "cache")
    ours = base_from_config(base_config(case.family, **case.base), case.family)

    for base in (replace(written.base, source=ours.source), ours):
        verdict = judge_one(Request("", str(written.directory)), Terms(base), settings)

        assert verdict.error is None
        errors = [found for found in verdict.findings if found.severity is Severity.ERROR]
        # They are as PEFT makes them, before any training: most have B at zero, which is what LC502 says.
        allowed = {"LC502"} | ({"LC425"} if name == "pissa_niter_4" else set())
        assert {found.code for found in errors} <= allowed
        assert verdict.applied is not None
        assert verdict.applied.matched == verdict.applied.total == len(written.layers)


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
