"""``adapter_config.json``, in every state that it comes in, and how two differ."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.adapter import Adapter, Change, compare
from lora_cli.adapter.config import CONFIG_CAP, PEFT_FIELDS, LoraConfig, parse_config
from lora_cli.errors import FormatError

BAD = [0.5] * 200_000
MISTYPED: list[tuple[str, Any, str]] = [
    ("r", "8", 'must be an integer, not a string: "8"'),
    ("r", -(10**400), f"must fit in a float, not -1{'0' * 57}…"),
    ("lora_alpha", True, "must be a number, not a boolean: true"),
    ("lora_dropout", math.inf, "must be finite, not a number: Infinity"),
    ("use_rslora", "false", 'must be a boolean, not a string: "false"'),
    ("target_modules", ["q_proj", 1], "must be a string, not an integer: 1"),
    ("target_modules", BAD, "must be a string, not a number: 0.5"),
    ("modules_to_save", "lm_head", 'must be a list, not a string: "lm_head"'),
    ("init_lora_weights", 1, "must be a boolean, not an integer: 1"),
    ("rank_pattern", {"q_proj": 4.0}, "must be an integer, not a number: 4.0"),
    ("alpha_pattern", None, "must be an object, not null: null"),
    ("trainable_token_indices", {"a": ["1"]}, 'must be an integer, not a string: "1"'),
    ("layers_to_transform", True, "must be a list, not a boolean: true"),
    ("layer_replication", [[0, 4, 2]], "must be a pair, not a list: [0, 4, 2]"),
    ("layer_replication", [[-1, 2]], "must be at least 0, not an integer: -1"),
]


@pytest.mark.parametrize(("name", "raw", "message"), MISTYPED, ids=lambda it: it if isinstance(it, str) else "")
def test_a_field_of_the_wrong_type_is_kept_as_it_is_and_stops_no_other(name: str, raw: Any, message: str) -> None:
    config = parse_config(json.dumps({"task_type": "CAUSAL_LM", name: raw, "fan_in_fan_out": True}).encode())
    assert (config.task_type, config.fan_in_fan_out) == ("CAUSAL_LM", True)
    assert config.mistyped == {name: raw}
    assert getattr(config, name) == getattr(LoraConfig(), name)
    assert (config.errors[name].reason, config.errors[name].where) == (message, f"adapter_config.json: {name}")


def test_what_peft_has_no_field_for_is_kept_and_of_duplicates_the_last_counts() -> None:
    config = parse_config(b'{"r": 4, "enable_lora": null, "file": {"rho": 2}, "errors": 3, "\\ud800": 1, "r": 16}')
    assert config.unknown == {"enable_lora": None, "file": {"rho": 2}, "errors": 3, "\ud800": 1}
    assert (config.r, config.duplicates, {*config.given}) == (16, ("r",), {"r"})
    assert parse_config({"r": 4}) == parse_config(b'{"r": 4}')


UNREADABLE = {
    b"": "not JSON",
    b"[]": "must be an object",
    b"\xff\xfe": "not UTF-8",
    b'{"r":' + b"[" * 90_000: "nested too deep",
    b" " * (CONFIG_CAP + 1): "over the limit for a config",
}


@pytest.mark.parametrize("data", UNREADABLE, ids=lambda data: repr(data[:8]))
def test_what_cannot_be_read_is_an_error_with_the_file(data: bytes) -> None:
    with pytest.raises(FormatError, match=f"adapter_config.json.*{UNREADABLE[data]}"):
        parse_config(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from([*PEFT_FIELDS]) | st.text(max_size=8), json_values, max_size=8))
def test_any_object_is_read_and_nothing_in_it_is_lost(raw: dict[str, Any]) -> None:
    config = parse_config(json.dumps(raw).encode())
    assert config.given | config.unknown.keys() == raw.keys()
    assert config.errors.keys() == config.mistyped.keys()
    for name in config.given - config.mistyped.keys():
        wanted = raw[name] if raw[name] is not None or getattr(config, name) is None else False
        assert json.loads(json.dumps(getattr(config, name))) == wanted


PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
CHANGED: list[tuple[dict[str, Any], bool]] = [
    ({"target_modules": ["v_proj", "q_proj", "v_proj"]}, False),
    ({"bias": "none", "use_rslora": False, "rank_pattern": {}, "modules_to_save": None, "use_dora": None}, False),
    ({"r": "8"}, True),
    ({"lora_alpha": True}, True),
    ({"rank_pattern": {"q": 4}}, True),
    ({"target_modules": "all-linear"}, True),
    ({"lora_dropout": 0.3, "revision": "x", "file": "y"}, True),
]


def differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[Change, ...]:
    one, other = (Adapter("x", (), (), parse_config(config), None, {}, None, {}, {}) for config in (a, b))
    return compare(one, other).fields


@pytest.mark.parametrize(("fields", "differs"), CHANGED)
def test_only_what_means_something_else_is_a_difference(fields: dict[str, Any], differs: bool) -> None:
    found = differences(PLAIN, {**PLAIN, **fields})
    assert {one.name for one in found} == (fields.keys() if differs else set())
    assert differences({**PLAIN, **fields}, PLAIN) == tuple(Change(one.name, one.b, one.a) for one in found)
