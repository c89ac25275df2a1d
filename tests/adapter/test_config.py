"""``adapter_config.json``, in every state that it comes in."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.config import CONFIG_CAP, GETTERS, LoraConfig, parse_config, peft_fields, type_error
from lora_cli.errors import FormatError


def test_an_empty_config_has_the_defaults() -> None:
    config = parse_config(b"{}")
    assert config == LoraConfig()
    assert (config.r, config.lora_alpha, config.target_modules, config.peft_type) == (8, 8, None, None)


def test_every_field_has_a_type() -> None:
    assert set(peft_fields()) == set(GETTERS)


GIVEN: dict[str, tuple[Any, Any]] = {
    "peft_type": ("LORA", "LORA"),
    "task_type": (None, None),
    "base_model_name_or_path": ("org/base", "org/base"),
    "r": (16, 16),
    "lora_alpha": (32.5, 32.5),
    "lora_dropout": (0.05, 0.05),
    "use_rslora": (True, True),
    "target_modules": (["q_proj", "v_proj"], ("q_proj", "v_proj")),
    "exclude_modules": (".*gate", ".*gate"),
    "modules_to_save": (["lm_head"], ("lm_head",)),
    "init_lora_weights": ("pissa_niter_4", "pissa_niter_4"),
    "layers_to_transform": (3, 3),
    "layers_pattern": (["layers"], ("layers",)),
    "rank_pattern": ({"q_proj": 4}, {"q_proj": 4}),
    "alpha_pattern": ({"q_proj": 4.5}, {"q_proj": 4.5}),
    "trainable_token_indices": ({"embed_tokens": [1, 2]}, {"embed_tokens": (1, 2)}),
    "alora_invocation_tokens": ([1, 2], (1, 2)),
    "layer_replication": ([[0, 4], [2, 5]], ((0, 4), (2, 5))),
    "target_parameters": (["mlp.experts.down_proj"], ("mlp.experts.down_proj",)),
    "use_bdlora": ({"nblocks": 2}, {"nblocks": 2}),
    "kasa_config": ({"beta": 0.1}, {"beta": 0.1}),
    "runtime_config": ({}, {}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_field_of_the_right_type_is_read_under_its_own_name(name: str) -> None:
    raw, wanted = GIVEN[name]
    config = parse_config(json.dumps({name: raw}).encode())
    assert getattr(config, name) == wanted
    assert (config.given, config.mistyped, config.unknown) == (frozenset({name}), {}, {})
    assert type_error(config, name) is None


NULLS = {
    **dict.fromkeys(("inference_mode", "fan_in_fan_out", "use_rslora", "use_dora", "use_qalora"), False),
    **dict.fromkeys(("lora_bias", "ensure_weight_tying", "init_lora_weights"), False),
    "qalora_group_size": 16,
}

MISTYPED: dict[str, tuple[Any, str]] = {
    "r": ("8", 'adapter_config.json: r: must be an integer, not a string: "8"'),
    "lora_alpha": (True, "adapter_config.json: lora_alpha: must be a number, not a boolean: true"),
    "lora_dropout": (math.inf, "adapter_config.json: lora_dropout: must be finite, not inf"),
    "use_rslora": ("false", 'adapter_config.json: use_rslora: must be a boolean, not a string: "false"'),
    "use_dora": (1, "adapter_config.json: use_dora: must be a boolean, not an integer: 1"),
    "target_modules": (
        ["q_proj", 1],
        "adapter_config.json: target_modules[1]: must be a string, not an integer: 1",
    ),
    "modules_to_save": ("lm_head", 'adapter_config.json: modules_to_save: must be a list, not a string: "lm_head"'),
    "rank_pattern": (
        {"q_proj": 4.0},
        'adapter_config.json: rank_pattern["q_proj"]: must be an integer, not a number: 4.0',
    ),
    "alpha_pattern": (None, "adapter_config.json: alpha_pattern: must be an object, not null: null"),
    "layers_to_transform": ("3", 'adapter_config.json: layers_to_transform: must be a list, not a string: "3"'),
    "layer_replication": (
        [[0, 4, 2]],
        "adapter_config.json: layer_replication[0]: must be a pair [start, end), not 3 numbers",
    ),
    "peft_type": (1, "adapter_config.json: peft_type: must be a string, not an integer: 1"),
}


@pytest.mark.parametrize("name", MISTYPED)
def test_a_field_of_the_wrong_type_is_kept_as_it_is_and_never_coerced(name: str) -> None:
    raw, message = MISTYPED[name]
    config = parse_config(json.dumps({name: raw}).encode())
    assert config.mistyped == {name: raw}
    assert name in config.given
    assert getattr(config, name) == getattr(LoraConfig(), name)
    assert str(type_error(config, name)) == message


def test_what_peft_has_no_field_for_is_kept() -> None:
    config = parse_config(b'{"r": 4, "enable_lora": null, "eva_cfg": {"rho": 2}}')
    assert config.unknown == {"enable_lora": None, "eva_cfg": {"rho": 2}}
    assert config.given == {"r"}


def test_another_method_is_read_too_for_others_to_judge() -> None:
    config = parse_config(b'{"peft_type": "IA3", "feedforward_modules": ["down_proj"]}')
    assert config.peft_type == "IA3"
    assert "feedforward_modules" in config.unknown


def test_duplicates_are_reported_and_the_last_counts() -> None:
    config = parse_config(b'{"r": 4, "r": 16}')
    assert (config.r, config.duplicates) == (16, ("r",))


def test_a_mapping_is_read_like_its_json() -> None:
    assert parse_config({"r": 4}) == parse_config(b'{"r": 4}')


UNREADABLE = {
    b"": "not JSON",
    b"[]": "must be an object",
    b'"LORA"': "must be an object",
    b"\xff\xfe": "not UTF-8",
    b"{" * 10: "not JSON",
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
@given(st.dictionaries(st.sampled_from(sorted(GETTERS)) | st.text(max_size=8), json_values, max_size=8))
def test_any_object_is_read_and_nothing_in_it_is_lost(raw: dict[str, Any]) -> None:
    config = parse_config(json.dumps(raw).encode())
    assert config.given | config.unknown.keys() == raw.keys()
    for name in config.given:
        error = type_error(config, name)
        assert (error is not None) == (name in config.mistyped)
        if error is not None:
            assert error.where.startswith(f"adapter_config.json: {name}")
        else:
            # Null is what PEFT takes for false, or for no number.
            assert as_lists(getattr(config, name)) == (raw[name] if raw[name] is not None else NULLS.get(name))


def as_lists(value: Any) -> Any:
    if isinstance(value, tuple):
        return [as_lists(one) for one in value]
    return {key: as_lists(one) for key, one in value.items()} if isinstance(value, dict) else value
