"""A config.json is anybody's: what no model has is refused before it costs memory, and every error says where."""

import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.base.base_model import BaseModule
from lora_cli.base.families import base_from_config, evaluate, family_of
from lora_cli.base.families import FAMILIES
from lora_cli.base.base_model import MAX_DIMENSION, MAX_EXPERTS
from lora_cli.errors import FormatError
from tests.base.configs import CONFIGS, GROUPED, IMAGES

HUGE = 10**12


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(FormatError) as caught:
        base_from_config(config, "base")
    return caught.value.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": HUGE}, f"num_hidden_layers: must be at most {MAX_DIMENSION}, not {HUGE}"),
        (
            {"num_hidden_layers": MAX_LAYERS + 1},
            f"num_hidden_layers: {MAX_LAYERS + 1} layers exceed the limit of {MAX_LAYERS}",
        ),
        ({"hidden_size": HUGE}, f"hidden_size: must be at most {MAX_DIMENSION}, not {HUGE}"),
        ({"hidden_size": 0}, "hidden_size: must be at least 1, not 0"),
        ({"hidden_size": -8}, "hidden_size: must be at least 1, not -8"),
        ({"hidden_size": 48.0}, "hidden_size: must be an integer, not a number: 48.0"),
        ({"hidden_size": "48"}, 'hidden_size: must be an integer, not a string: "48"'),
        ({"hidden_size": None}, "hidden_size: must be an integer, not null: null"),
        ({"vocab_size": True}, "vocab_size: must be an integer, not a boolean: true"),
        ({"attention_bias": "yes"}, 'attention_bias: must be a boolean, not a string: "yes"'),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: must be a boolean, not an integer: 1"),
        ({"num_attention_heads": 0}, "num_attention_heads: must be at least 1, not 0"),
        (
            {"num_attention_heads": MAX_DIMENSION, "head_dim": MAX_DIMENSION},
            f"self_attn.q_proj would be {MAX_DIMENSION**2} wide (num_attention_heads * head_dim), over the limit",
        ),
        (
            {"num_attention_heads": 64, "hidden_size": 48},
            "head_dim: is not set, and hidden_size // num_attention_heads gives 0",
        ),
    ],
)
def test_a_number_that_no_model_has_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    assert refusal({"model_type": "llama", **GROUPED, **change}) == f"config.json: {message}"


def test_as_many_layers_as_the_limit_are_taken() -> None:
    base = base_from_config({"model_type": "llama", **GROUPED, "num_hidden_layers": MAX_LAYERS}, "base")
    assert f"model.layers.{MAX_LAYERS - 1}.self_attn.q_proj" in base.modules


def test_experts_are_bounded() -> None:
    moe = {"model_type": "qwen3_moe", **GROUPED}
    assert (
        refusal(moe | {"num_experts": HUGE}) == f"config.json: num_experts: must be at most {MAX_EXPERTS}, not {HUGE}"
    )
    assert refusal(moe | {"decoder_sparse_step": 0}) == "config.json: decoder_sparse_step: must be at least 1, not 0"
    assert "lists 5000 layers" in refusal(moe | {"mlp_only_layers": [0] * 5000})
    assert refusal(moe | {"mlp_only_layers": ["0"]}) == (
        'config.json: mlp_only_layers[0]: must be an integer, not a string: "0"'
    )
    assert refusal({"model_type": "mixtral", **GROUPED, "num_local_experts": 0}).endswith("must be at least 1, not 0")


def test_the_sections_of_a_wrapper_are_checked_under_their_names() -> None:
    wrapper = {"model_type": "gemma3", **IMAGES}
    assert refusal(wrapper | {"text_config": {"hidden_size": HUGE}}).startswith(
        "config.json: text_config: hidden_size:"
    )
    assert refusal(wrapper | {"text_config": [1]}) == "config.json: text_config: must be an object, not a list: [1]"
    assert refusal(wrapper | {"vision_config": {"patch_size": 500}}) == (
        "config.json: vision_config: patches_per_side: is not set, and image_size // patch_size gives 0"
    )
    assert refusal(wrapper | {"vision_config": {"model_type": "clip"}}) == (
        'config.json: vision_config: is a "clip", but only siglip_vision_model is supported here'
    )


def test_a_config_without_a_family_is_refused_and_an_adapters_config_is_recognised() -> None:
    assert refusal({}) == "config.json: model_type is missing"
    assert refusal({"model_type": 3}) == "config.json: model_type: must be a string, not an integer: 3"
    assert refusal({"peft_type": "LORA", "r": 8}) == "config.json: is the config of an adapter"


@pytest.mark.slow
def test_the_largest_config_that_passes_costs_little_memory() -> None:
    for family in FAMILIES:
        deep = {"num_hidden_layers": MAX_LAYERS, "n_layer": MAX_LAYERS}
        config = {"model_type": family, **CONFIGS[family][0], **deep}
        if "vision_config" in config:
            eye = {**deep, "depth": MAX_LAYERS}
            config |= {"text_config": {**config.get("text_config", {}), **deep}, "vision_config": eye}
        tracemalloc.start()
        base = base_from_config(config, "base")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert base.num_layers == MAX_LAYERS
        assert peak < 32 * 2**20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(family=st.sampled_from([*FAMILIES]), data=st.data())
def test_whatever_the_fields_hold_there_is_a_model_or_a_format_error(family: str, data: st.DataObject) -> None:
    sections = [part.section for part in family_of(family).parts if part.section]
    keys = st.sampled_from(sorted({key for part in family_of(family).parts for key in part.fields}))
    small = st.dictionaries(keys, st.integers(-2, 64) | JSON, max_size=4)
    config = {**CONFIGS[family][0], **data.draw(small)}
    config |= {section: data.draw(small | JSON) for section in sections}
    modules: Mapping[str, BaseModule] = {}
    with suppress(FormatError):
        modules = base_from_config({"model_type": family, **config}, "base").modules
    assert all(1 <= size <= MAX_DIMENSION for module in modules.values() for size in (module.d_in, module.d_out))


def test_an_expression_outside_the_grammar_is_a_fault_of_the_table() -> None:
    assert evaluate("a * b + 2 * c // 3", {"a": 2, "b": 5, "c": 7}) == 14
    for wrong in ("", "a b", "a +", "a - b", "a * (b)"):
        with pytest.raises(ValueError, match="not a dimension"):
            evaluate(wrong, {"a": 1, "b": 1})
