"""What the hints of engines tell to do is what helps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lora_cli.rules.features.config import required_field_missing
from lora_cli.rules.features.tensors import has_tensors

from lora_cli.adapter.config import parse_config
from lora_cli.base.families import base_from_config
from lora_cli.engines import ENGINES, choose_engine
from lora_cli.engines.profile import MERGE
from lora_cli.finding import Location
from lora_cli.judging.judge import Terms, judge_one
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from tests.making import HIDDEN, Q_PROJ, base_config, write_adapter


def test_names_are_corrected_by_a_base_and_the_hint_asks_for_it() -> None:
    mends = {row.mend for engine in ENGINES.values() for row in engine.rows if "corrects the names" in row.mend}

    assert mends
    assert all("--base BASE" in mend for mend in mends)


def test_two_of_the_tensors_are_named_and_the_others_counted() -> None:
    told = []
    for names in ("a", "abc"):
        keys = [SimpleNamespace(name=name) for name in names]
        case: Any = SimpleNamespace(other_keys=keys, in_weights=Location)
        told += [found.message for found in has_tensors("saved weight", lambda _: True)(case)]

    assert told == ["there is 1 saved weight: a", "there are 3 saved weights: a, b and 1 more"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"r": 4, "target_modules": ["q_proj"]}, "lora_alpha is missing"),
        ({"target_modules": ["q_proj"]}, "r, lora_alpha are missing"),
    ],
)
def test_the_fields_that_are_missing_are_named(config: dict[str, Any], told: str) -> None:
    read = parse_config(config)
    case: Any = SimpleNamespace(adapter=SimpleNamespace(config=read), config=read, in_config=Location)

    assert [found.message for found in required_field_missing(case)] == [told]


@pytest.mark.parametrize(("said", "reason"), [(True, "dora"), (False, "names-outside-grammar")])
def test_no_hint_of_a_dora_adapter_promises_that_repair_helps(tmp_path: Path, said: bool, reason: str) -> None:
    magnitude = {f"base_model.model.{Q_PROJ}.lora_magnitude_vector": np.ones(HIDDEN, "f4")}
    adapter = write_adapter(tmp_path / "dora", config={"use_dora": said}, tensors=magnitude)
    terms = Terms(base_from_config(base_config(), "base"), engines=(choose_engine("vllm"),))

    verdict = judge_one(Request("", str(adapter)), terms, Settings(cache_dir=tmp_path / "cache"))

    assert verdict.error is None
    mends = {one.feature: one.mend for one in verdict.engines[0].reasons if one.code == "LC402"}
    assert mends == {reason: MERGE}
