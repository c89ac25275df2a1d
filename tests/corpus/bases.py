"""Tiny base models of many families, with weights that are the same each time."""

import functools
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.base.configs import CONFIGS

FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt2", "gpt_neox", "gptj",
    "opt", "falcon", "bloom", "starcoder2", "stablelm", "granite", "olmo2", "cohere",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """A base by its ``model_type`` and the fields of its config; two of one name are one."""

    family: str
    fields: Mapping[str, Any] = field(hash=False)

    @property
    def config(self) -> dict[str, Any]:
        """Its ``config.json``."""
        return {"model_type": self.family, **self.fields}

    def model(self) -> Any:
        """A fresh model with the base's weights."""
        model = _made(self)
        model.load_state_dict(_weights(self))
        return model


def base_of(family: str) -> Base:
    """The family's base: untied, so that every module stands for itself."""
    return Base(family, {**CONFIGS[family][0], "tie_word_embeddings": False, "pad_token_id": 0})


@functools.cache
def _weights(base: Base) -> dict[str, Any]:
    import torch

    torch.manual_seed(7)
    return {name: tensor.clone() for name, tensor in _made(base).state_dict().items()}


def _made(base: Base) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.for_model(base.family, **base.fields)
        auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        return auto.from_config(config).eval()


def write_config(base: Base, directory: Path) -> Path:
    """The base's folder, as ``--base`` takes it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(base.config))
    return directory
