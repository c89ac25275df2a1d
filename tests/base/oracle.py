"""What transformers itself builds from a config, on the meta device: no weight is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli.base.base_model import BaseModel, BaseModule
from lora_cli.runtime.module_tree import describe


@dataclass(frozen=True, slots=True)
class Oracle:
    """The facts of a transformers model that a ``BaseModel`` states."""

    modules: dict[str, BaseModule]
    parameters: dict[str, tuple[int, ...]]
    num_layers: int
    hidden_size: int
    vocab_size: int
    tied_embeddings: bool


def stated(base: BaseModel) -> Oracle:
    """The same facts, as a ``BaseModel`` states them."""
    assert base.vocab_size is not None
    return Oracle(
        dict(base.modules),
        dict(base.parameters),
        base.num_layers,
        base.hidden_size,
        base.vocab_size,
        base.tied_embeddings,
    )


def transformers_model(config: Mapping[str, Any]) -> Any:
    """The class for text generation of ``config``'s family (for one with images that is the wrapper), on meta."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    fields = dict(config)
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    auto = AutoModelForImageTextToText if hasattr(made, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(made)


def ask(config: Mapping[str, Any]) -> Oracle:
    """Every module that LoRA can wrap, and every other parameter of two or more dimensions."""
    return facts(transformers_model(config))


def facts(model: Any) -> Oracle:
    """The facts of a model that exists."""
    return stated(describe(model, model.config.model_type))
