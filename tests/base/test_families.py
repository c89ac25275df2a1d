"""A table's model is the model that transformers builds: same modules, same shapes, from the same config."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_cli.base.base_model import BaseModule
from lora_cli.base.families import UnknownArchitecture, base_from_config
from lora_cli.base.families import FAMILIES
from tests.base.configs import CONFIGS, GROUPED
from tests.base.oracle import ask, facts, stated, transformers_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_the_modules_shapes_and_norms_of_transformers(family: str, tmp_path: Path) -> None:
    """From each config, from one without a key, whose default is the class's, and from the one that is saved."""
    norms = set()
    for config in ({}, *CONFIGS[family]):
        model = transformers_model({"model_type": family, **config})
        base = base_from_config({"model_type": family, **config}, "base")
        assert stated(base) == facts(model)
        assert (base.name, base.model_type, base.source) == ("base", family, f"config.json ({family})")
        norms |= norms_of(model)
    assert norms == set(FAMILIES[family].norms)
    transformers_model({"model_type": family, **CONFIGS[family][0]}).config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert stated(base_from_config(saved, "base")) == ask({"model_type": family, **CONFIGS[family][0]})


def norms_of(model: Any) -> set[str]:
    """The last names of its norms that have weights."""
    return {
        path.rpartition(".")[2]
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and next(module.parameters(), None) is not None
    }


def test_every_family_has_two_configs_to_be_checked_with() -> None:
    assert set(CONFIGS) == set(FAMILIES)
    assert all(len(configs) >= 2 for configs in CONFIGS.values())


NUMBERS = {
    "vocab_size": st.integers(2, 300),
    "num_hidden_layers": st.integers(1, 5),
    "intermediate_size": st.integers(1, 300),
    "num_key_value_heads": st.integers(1, 8),
    "head_dim": st.sampled_from([2, 6, 10, 34]),
    "num_experts": st.integers(0, 6),
    "moe_intermediate_size": st.integers(1, 90),
    "decoder_sparse_step": st.integers(1, 4),
    "mlp_only_layers": st.lists(st.integers(-2, 6), max_size=4),
    "attention_bias": st.booleans(),
    "tie_word_embeddings": st.booleans(),
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(family=st.sampled_from(["llama", "qwen3", "gemma2", "qwen3_moe"]), data=st.data())
def test_any_sensible_config_gives_the_model_that_transformers_builds(family: str, data: st.DataObject) -> None:
    numbers = data.draw(st.fixed_dictionaries({}, optional=NUMBERS))
    heads, width = data.draw(st.sampled_from([(1, 8), (2, 12), (4, 64), (6, 48), (8, 144)]))
    config = {"num_hidden_layers": 2, **numbers, "num_attention_heads": heads, "hidden_size": width}
    config |= {"model_type": family, "pad_token_id": 0}
    assert stated(base_from_config(config, "base")) == ask(config)


@pytest.mark.parametrize("family", ["mistral", "mixtral"])
def test_a_null_count_of_key_value_heads_is_the_count_of_heads(family: str) -> None:
    config = {"model_type": family, **GROUPED, "num_key_value_heads": None}
    assert stated(base_from_config(config, "base")) == ask(config | {"num_key_value_heads": 6})


def test_a_checkpoint_that_is_quantised_says_so() -> None:
    config = {"model_type": "llama", **GROUPED, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert base_from_config(config, "base").source == "config.json (llama, quantised: gptq)"
    assert base_from_config(config | {"quantization_config": {"bits": 4}}, "base").source == (
        "config.json (llama, quantised: by an unknown method)"
    )


def test_layers_of_a_kind_share_their_values() -> None:
    base = base_from_config({"model_type": "llama", **GROUPED}, "base")
    first = base.modules["model.layers.0.self_attn.q_proj"]
    assert first is base.modules["model.layers.1.self_attn.q_proj"]
    assert first == BaseModule(d_in=48, d_out=48)


def test_an_unknown_family_names_the_nearest_known_one() -> None:
    with pytest.raises(UnknownArchitecture) as caught:
        base_from_config({"model_type": "qwen3moe"}, "base")
    assert caught.value.message == 'config.json: model_type: unknown architecture "qwen3moe"'
    assert caught.value.hint == "did you mean qwen3_moe?"
    with pytest.raises(UnknownArchitecture) as caught:
        base_from_config({"model_type": "__init__"}, "base")
    assert "llama" in caught.value.hint
