"""What transformers itself builds from a config, on the meta device: no weight is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_cli.core.base_model import BaseModel, BaseModule, ModuleKind


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
    """The class for text generation of ``config``'s family (for Gemma 3 with images that is the wrapper), on meta."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(config)
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(made)


def ask(config: Mapping[str, Any]) -> Oracle:
    """Every module that LoRA can wrap, and every other parameter of two or more dimensions."""
    return facts(transformers_model(config))


def facts(model: Any) -> Oracle:
    """The facts of a model that exists."""
    modules: dict[str, BaseModule] = {}
    parameters: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        made = _wrappable(module)
        if made is not None:
            modules[path] = made
            continue
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.dim() >= 2:
                parameters[f"{path}.{name}"] = tuple(parameter.shape)
    text = model.config.get_text_config()
    return Oracle(
        modules,
        parameters,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        tied_embeddings=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
    )


def _wrappable(module: Any) -> BaseModule | None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Embedding):
        return BaseModule(module.num_embeddings, module.embedding_dim, "embedding")
    if isinstance(module, nn.Linear):
        return _with_bias(module, module.in_features, module.out_features, "linear")
    if isinstance(module, Conv1D):
        return _with_bias(module, module.nx, module.nf, "conv1d")
    return None


def _with_bias(module: Any, d_in: int, d_out: int, kind: ModuleKind) -> BaseModule:
    return BaseModule(d_in, d_out, kind, module.bias is not None)
