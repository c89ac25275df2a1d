"""Families without a table are known as transformers builds them, and hostile configs build nothing."""

from typing import Any

import pytest

from lora_cli.base.base_model import BaseModule
from lora_cli.base.families import FAMILIES, UnknownArchitecture
from lora_cli.base.from_transformers import base_from_transformers
from lora_cli.errors import FormatError

OLMO3: dict[str, Any] = {
    "model_type": "olmo3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def test_an_unknown_family_is_known_as_transformers_builds_it() -> None:
    assert "olmo3" not in FAMILIES
    base = base_from_transformers(OLMO3)
    assert base.modules["model.layers.1.self_attn.k_proj"] == BaseModule(64, 32)
    assert base.modules["model.embed_tokens"] == BaseModule(100, 64, "embedding")
    assert (base.num_layers, base.hidden_size, base.vocab_size, base.tied_embeddings) == (2, 64, 100, False)


def test_an_unknown_wrapper_is_known_with_its_vision_part() -> None:
    assert "qwen3_vl" not in FAMILIES
    text = {name: value for name, value in OLMO3.items() if name != "model_type"}
    eye = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}
    base = base_from_transformers({"model_type": "qwen3_vl", "text_config": text, "vision_config": eye})
    assert base.modules["model.language_model.layers.1.self_attn.k_proj"].d_in == 64
    assert base.modules["model.visual.blocks.0.attn.qkv"].d_in == 32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "nonsense"}, "nonsense"),
        ({"model_type": None}, "model_type is missing"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"model_type": "gptj", "n_layer": 10**9}, "n_layer"),
        ({"text_config": {"num_experts": 10**9}}, "num_experts"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 0}, "olmo3"),
        ({"intermediate_size": -5}, "dimension -5"),
    ],
)
def test_a_config_that_makes_no_model_is_one_error(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        base_from_transformers(OLMO3 | change)


def test_code_that_a_repository_ships_is_not_looked_at() -> None:
    hostile = OLMO3 | {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "os.system", "AutoModelForCausalLM": "os.system"},
    }
    with pytest.raises(UnknownArchitecture):
        base_from_transformers(hostile)
