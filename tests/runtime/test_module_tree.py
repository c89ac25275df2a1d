"""Families without a table are known as transformers builds them, and hostile configs build nothing."""

from typing import Any

import pytest

from lora_cli.core.architectures import FAMILIES, UnknownArchitecture
from lora_cli.core.base_model import BaseModule
from lora_cli.errors import FormatError
from lora_cli.runtime.module_tree import base_from_transformers

OLMO2: dict[str, Any] = {
    "model_type": "olmo2",
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
    assert "olmo2" not in FAMILIES

    base = base_from_transformers(OLMO2)

    assert base.modules["model.layers.1.self_attn.k_proj"] == BaseModule(64, 32)
    assert base.modules["model.embed_tokens"] == BaseModule(100, 64, "embedding")
    assert (base.num_layers, base.hidden_size, base.vocab_size, base.tied_embeddings) == (2, 64, 100, False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "nonsense"}, "nonsense"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"model_type": "gptj", "n_layer": 10**9}, "n_layer"),
        ({"text_config": {"num_experts": 10**9}}, "num_experts"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 0}, "olmo2"),
    ],
)
def test_a_config_that_makes_no_model_is_one_error(change: dict[str, Any], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        base_from_transformers(OLMO2 | change)


def test_code_that_a_repository_ships_is_not_looked_at() -> None:
    hostile = OLMO2 | {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "os.system", "AutoModelForCausalLM": "os.system"},
    }

    with pytest.raises(UnknownArchitecture):
        base_from_transformers(hostile)
