"""What transformers itself builds from a config, on the meta device: no weight is allocated."""

from collections.abc import Mapping
from typing import Any

from lora_cli.base.base_model import BaseModel
from lora_cli.base.from_transformers import describe


def stated(base: BaseModel) -> dict[str, Any]:
    """The facts of a base that a transformers model has, too."""
    facts = ("modules", "parameters", "num_layers", "hidden_size", "vocab_size", "tied_embeddings")
    return {fact: getattr(base, fact) for fact in facts}


def transformers_model(config: Mapping[str, Any]) -> Any:
    """The class for text generation of ``config``'s family (for one with images that is the wrapper), on meta."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    fields = dict(config)
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    auto = AutoModelForImageTextToText if hasattr(made, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(made)


def facts(model: Any) -> dict[str, Any]:
    """The same of a model that exists: every module that LoRA can wrap, and other parameters of two dimensions."""
    return stated(describe(model, model.config.model_type))
