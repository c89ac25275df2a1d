"""The last resort for an unknown family: the module tree that transformers builds on the meta device."""

from collections.abc import Mapping
from typing import Any

from lora_cli.core.architectures import UnknownArchitecture
from lora_cli.core.architectures.table import MAX_EXPERTS, MAX_LAYERS
from lora_cli.core.base_model import BaseModel, BaseModule
from lora_cli.errors import FormatError
from lora_cli.runtime.from_config import WHERE, outline, whole_model

COUNTS = {**dict.fromkeys(("layers", "layer", "depth", "depths", "blocks"), MAX_LAYERS), "experts": MAX_EXPERTS}
"""What a key's last word counts, and the most that is built: each one is Python objects, also on the meta device."""


def base_from_transformers(config: Mapping[str, Any]) -> BaseModel:
    """The base model of a config whose family has no table, as transformers' own class has it.

    No weight is allocated, and none of the repository's code is run.

    Raises:
        MissingExtra: transformers or torch is not installed.
        UnknownArchitecture: transformers does not know the ``model_type`` either.
        FormatError: its fields do not make a model, or make one larger than any is.
    """
    _bound(config)
    try:
        model = outline(config, whole_model)
    except FormatError as error:
        hint = error.hint or "name a folder with the model's checkpoint"
        raise UnknownArchitecture(error.reason, where=error.where, hint=hint) from error
    return describe(model, config["model_type"])


def _bound(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if isinstance(value, Mapping):
            _bound(value)
        most = COUNTS.get(name.rsplit("_", 1)[-1])
        for count in value if isinstance(value, list) else [value]:
            if most is not None and isinstance(count, int) and count > most:
                raise FormatError(f"{count} is more than the {most} that any model has", where=f"{WHERE}: {name}")


def describe(model: Any, model_type: str) -> BaseModel:
    """A transformers model: the modules that LoRA can wrap, and every other parameter of two or more dimensions."""
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
    head = model.get_output_embeddings()
    return BaseModel(
        name=model_type,
        model_type=model_type,
        modules=modules,
        num_layers=getattr(text, "num_hidden_layers", None) or sum(getattr(text, "depths", ())),
        hidden_size=getattr(text, "hidden_size", None) or max(getattr(text, "hidden_sizes", (0,))),
        vocab_size=getattr(text, "vocab_size", None),
        tied_embeddings=head is not None and head.weight is model.get_input_embeddings().weight,
        parameters=parameters,
        source=f"config.json ({model_type}, as transformers builds it)",
    )


def _wrappable(module: Any) -> BaseModule | None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Embedding):
        return BaseModule(module.num_embeddings, module.embedding_dim, "embedding")
    bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        return BaseModule(module.in_features, module.out_features, "linear", bias)
    if isinstance(module, Conv1D):
        return BaseModule(module.nx, module.nf, "conv1d", bias)
    return None
