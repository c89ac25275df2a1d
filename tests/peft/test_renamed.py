"""Old names are put under new ones exactly as PEFT and transformers do it."""

from typing import Any

import pytest

from lora_cli.adapter.adapter import Adapter, pair_up
from lora_cli.adapter.names import PEFT_PREFIX, parse_key
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.peft.experts import RENAMED, rename_modules
from tests.base.configs import CONFIGS
from tests.base.oracle import transformers_model

LAYER = "layers.0.self_attn.q_proj"
MODULES = [
    f"model.language_model.{LAYER}",
    f"language_model.model.{LAYER}",
    f"language_model.{LAYER}",
    f"model.language_model.model.{LAYER}",
    f"language_model.model.model.{LAYER}",
    f"model.{LAYER}",
    f"model.vision_tower.encoder.{LAYER}",
    f"vision_tower.encoder.{LAYER}",
    f"vision_tower.vision_model.encoder.{LAYER}",
    f"model.vision_tower.vision_model.encoder.{LAYER}",
    "model.vision_tower.vision_model.head.mlp.fc1",
    "model.multi_modal_projector.linear",
    "multi_modal_projector.linear",
    "language_model.model.embed_tokens",
    "lm_head",
    "language_model.lm_head",
    "model.elsewhere",
    "elsewhere",
]
ENDINGS = ["lora_A.weight", "lora_B.weight", "lora_A.default.weight", "lora_embedding_A", "lora_magnitude_vector"]


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers_model({"model_type": "gemma3", **CONFIGS["gemma3"][0]})


def of(name: str) -> Adapter:
    """An adapter of one tensor."""
    tensors = {name: TensorInfo(name, "F32", (1,), 0, 4, "adapter_model.safetensors")}
    keys = {name: parse_key(name)}
    return Adapter("a", (), (), None, None, tensors, None, keys, pair_up(tensors, keys), {})


@pytest.mark.parametrize("prefix", [PEFT_PREFIX, ""], ids=["prefix", "none"])
@pytest.mark.parametrize("module", MODULES)
def test_a_factor_is_where_peft_looks_for_it(module: str, prefix: str, model: Any) -> None:
    import torch
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    for ending in ENDINGS:
        name = f"{prefix}{module}.{ending}"
        (loaded,) = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(r=1), {name: torch.zeros(1)})
        after = parse_key(loaded)
        if ".default." in name and after.module != module:
            # PEFT then puts its own name in once more, and finds nothing: ours stays where nothing is found either.
            after = parse_key(name)

        found = rename_modules(of(name))

        assert found.keys[name].module == after.module
        assert list(found.pairs) == [after.module] * ("magnitude" not in name)


def test_only_families_with_conversions_are_renamed() -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    assert all(get_checkpoint_conversion_mapping(family) is not None for family in RENAMED)


@pytest.mark.parametrize("name", ["language_model.model.embed_tokens.weight", "language_model.model.norm.weight"])
def test_what_is_no_factor_keeps_its_name(name: str) -> None:
    assert rename_modules(of(PEFT_PREFIX + name)).keys == of(PEFT_PREFIX + name).keys
