"""``adapter_config.json``, in every state that it comes in, and how two differ."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.comparison import FieldChange, OtherAdapter, compare
from lora_cli.adapter.config import CONFIG_CAP, PEFT_FIELDS, LoraConfig, parse_config
from lora_cli.errors import FormatError

READ: dict[str, tuple[Any, Any]] = {
    "peft_type": ("LORA", "LORA"),
    "r": (16, 16),
    "lora_alpha": (32.5, 32.5),
    "use_rslora": (None, False),
    "target_modules": (["q_proj", "v_proj"], ("q_proj", "v_proj")),
    "exclude_modules": (".*gate", ".*gate"),
    "modules_to_save": (["lm_head"], ("lm_head",)),
    "init_lora_weights": ("pissa_niter_4", "pissa_niter_4"),
    "layers_to_transform": (3, 3),
    "alpha_pattern": ({"q_proj": 4.5, "k_proj": 4}, {"q_proj": 4.5, "k_proj": 4}),
    "trainable_token_indices": ({"embed_tokens": [1, 2]}, {"embed_tokens": (1, 2)}),
    "alora_invocation_tokens": ([1, 2], (1, 2)),
    "layer_replication": ([[0, 4], [2, 5]], ((0, 4), (2, 5))),
    "use_bdlora": ({"nblocks": 2}, {"nblocks": 2}),
}
"""A field: its JSON, and what is read."""


@pytest.mark.parametrize("name", READ)
def test_a_field_of_the_right_type_is_read_under_its_own_name(name: str) -> None:
    raw, wanted = READ[name]
    config = parse_config(json.dumps({name: raw}).encode())
    assert getattr(config, name) == wanted
    assert (config.given, config.mistyped, config.unknown) == (frozenset({name}), {}, {})


LIMIT = "must be pairs [start, end) of layers, at most 4096 in all"
MISTYPED: list[tuple[str, Any, str]] = [
    ("r", "8", 'must be an integer, not a string: "8"'),
    ("r", 10**400, f"must fit in a float, not 1{'0' * 58}…"),
    ("lora_alpha", True, "must be a number, not a boolean: true"),
    ("lora_dropout", math.inf, "must be finite, not inf"),
    ("use_rslora", "false", 'must be a boolean, not a string: "false"'),
    ("target_modules", ["q_proj", 1], "must be a string, not an integer: 1"),
    ("modules_to_save", "lm_head", 'must be a list, not a string: "lm_head"'),
    ("rank_pattern", {"q_proj": 4.0}, "must be an integer, not a number: 4.0"),
    ("alpha_pattern", None, "must be an object, not null: null"),
    ("trainable_token_indices", {"a": ["1"]}, 'must be an integer, not a string: "1"'),
    ("layers_to_transform", True, "must be an integer, not a boolean: true"),
    ("layer_replication", [[0, 4, 2]], LIMIT),
    ("layer_replication", [[0, 2]] * 100_000, LIMIT),
]


@pytest.mark.parametrize(("name", "raw", "message"), MISTYPED)
def test_a_field_of_the_wrong_type_is_kept_as_it_is_and_never_coerced(name: str, raw: Any, message: str) -> None:
    config = parse_config(json.dumps({name: raw}).encode())
    assert config.mistyped == {name: raw}
    assert config.given == {name}
    assert getattr(config, name) == getattr(LoraConfig(), name)
    assert config.errors[name].reason == message
    assert config.errors[name].where.startswith(f"adapter_config.json: {name}")


def test_what_peft_has_no_field_for_is_kept_and_of_duplicates_the_last_counts() -> None:
    config = parse_config(b'{"r": 4, "enable_lora": null, "eva_cfg": {"rho": 2}, "file": "x", "r": 16}')
    assert config.unknown == {"enable_lora": None, "eva_cfg": {"rho": 2}, "file": "x"}
    assert (config.r, config.duplicates, config.given) == (16, ("r",), frozenset({"r"}))
    assert parse_config({"r": 4}) == parse_config(b'{"r": 4}') == LoraConfig(r=4, given=frozenset({"r"}))


UNREADABLE = {
    b"": "not JSON",
    b"[]": "must be an object",
    b"\xff\xfe": "not UTF-8",
    b'{"r":' + b"[" * 90_000: "nested too deep",
    b" " * (CONFIG_CAP + 1): "over the limit for a config",
}


@pytest.mark.parametrize("data", UNREADABLE, ids=lambda data: repr(data[:8]))
def test_what_cannot_be_read_is_an_error_with_the_file(data: bytes) -> None:
    with pytest.raises(FormatError, match=UNREADABLE[data]) as caught:
        parse_config(data, "sub/adapter_config.json")
    assert caught.value.where.startswith("sub/adapter_config.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(list(PEFT_FIELDS)) | st.text(max_size=8), json_values, max_size=8))
def test_any_object_is_read_and_nothing_in_it_is_lost(raw: dict[str, Any]) -> None:
    config = parse_config(json.dumps(raw).encode())
    assert config.given | config.unknown.keys() == raw.keys()
    assert config.errors.keys() == config.mistyped.keys()
    for name in config.given - config.mistyped.keys():
        wanted = raw[name] if raw[name] is not None or getattr(config, name) is None else False
        assert json.loads(json.dumps(getattr(config, name))) == wanted


PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
SAME: list[dict[str, Any]] = [
    {"target_modules": ["v_proj", "q_proj", "v_proj"]},
    {"bias": "none", "use_rslora": False, "rank_pattern": {}, "modules_to_save": None, "use_dora": None},
]
OTHER: list[dict[str, Any]] = [
    {"r": "8"}, {"lora_alpha": True}, {"rank_pattern": {"q": 4}}, {"target_modules": "all-linear"},
    {"lora_dropout": 0.3, "revision": "x", "file": "y"},
]  # fmt: skip


def differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[FieldChange, ...]:
    one, other = (Adapter("x", (), (), parse_config(config), None, {}, None, {}, {}, {}) for config in (a, b))
    return compare(one, other, OtherAdapter("b", "", "")).fields


@pytest.mark.parametrize("fields", SAME)
def test_what_means_the_same_is_no_difference(fields: dict[str, Any]) -> None:
    assert differences(PLAIN, {**PLAIN, **fields}) == ()


@pytest.mark.parametrize("fields", OTHER)
def test_every_other_value_is_a_difference_with_both_values(fields: dict[str, Any]) -> None:
    found = differences(PLAIN, {**PLAIN, **fields})
    assert {one.field for one in found} == fields.keys()
    assert differences({**PLAIN, **fields}, PLAIN) == tuple(FieldChange(one.field, one.b, one.a) for one in found)
