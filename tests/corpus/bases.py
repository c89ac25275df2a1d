"""Tiny base models of many families, with weights that are the same each time."""

import functools
import json
import warnings
from pathlib import Path
from typing import Any

from tests.core.architectures.configs import CONFIGS

FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt2", "gpt_neox", "gptj",
    "opt", "falcon", "bloom", "starcoder2", "stablelm", "granite", "olmo2", "cohere",
)  # fmt: skip


def config_of(family: str) -> dict[str, Any]:
    """The ``config.json`` of the family's base: untied, so that every module stands for itself."""
    return {"model_type": family, **CONFIGS[family][0], "tie_word_embeddings": False, "pad_token_id": 0}


@functools.cache
def _weights(family: str) -> dict[str, Any]:
    import torch

    torch.manual_seed(7)
    return {name: tensor.clone() for name, tensor in _made(family).state_dict().items()}


def _made(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fields = config_of(family)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields)).eval()


def base_model(family: str) -> Any:
    """A fresh model with the family's weights."""
    model = _made(family)
    model.load_state_dict(_weights(family))
    return model


def write_config(family: str, directory: Path) -> Path:
    """The base's folder, as ``--base`` takes it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_of(family)))
    return directory
