"""The module tree of a model whose family has no table, as transformers builds it of its config alone."""

from collections.abc import Mapping
from typing import Any

from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.base.base_model import WHERE, BaseModel, BaseModule
from lora_cli.errors import FormatError, MissingExtra

HEADS = (
    *("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION"),
    "AUDIO_CLASSIFICATION",
)
"""The tasks whose classes are tried if the config names none: the first that its family has is used."""

COUNTED = ("layers", "layer", "depth", "depths", "blocks", "experts")
"""The last word of a key for a number of what is built: each one is Python objects, also on the meta device."""


def base_from_transformers(config: Mapping[str, Any], architecture: str) -> BaseModel:
    """The base model of a config whose family has no line of ours, as transformers' class ``architecture`` has it.

    No weight is allocated, and none of the repository's code is run.

    Raises:
        MissingExtra: transformers or torch is not installed.
        FormatError: transformers has no such model, or it would be larger than any is.
    """
    _bound(config)
    try:
        import torch
        import transformers  # noqa: F401 - it is imported where it is needed
    except ImportError as error:
        raise MissingExtra("a base model of this family", "models", error.name or "transformers") from error
    model_type = config["model_type"]
    try:
        with torch.device("meta"):
            return describe(_built(config, architecture), model_type)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        message = f"transformers cannot build a model of type {model_type!r}: {said}"
        raise FormatError(message, where=WHERE, hint="judge without its base: --base none") from error


def _bound(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if isinstance(value, Mapping):
            _bound(value)
        for count in value if isinstance(value, list) else [value]:
            if name.rsplit("_", 1)[-1] in COUNTED and isinstance(count, int) and count > MAX_LAYERS:
                raise FormatError(f"{count} is over the limit of {MAX_LAYERS}", where=f"{WHERE}: {name}")


def _built(config: Mapping[str, Any], architecture: str) -> Any:
    """The model that adapters are trained on: of the class ``architecture``, else by its family, with its towers.

    A class without a head (``ViTModel``) is taken for the first with one, whose modules adapters name.
    """
    import transformers

    made = transformers.AutoConfig.for_model(**{name: value for name, value in config.items() if name != "auto_map"})
    found: Any = getattr(transformers, architecture, None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if is_model and found.config_class is type(made) and found is not transformers.MODEL_MAPPING.get(type(made), None):
        return found(made)
    heads = ("IMAGE_TEXT_TO_TEXT", *HEADS) if hasattr(made, "vision_config") else HEADS
    tables = [*(getattr(transformers, f"MODEL_FOR_{head}_MAPPING") for head in heads), transformers.MODEL_MAPPING]
    return next(table[type(made)] for table in tables if type(made) in table)(made)


def describe(model: Any, model_type: str) -> BaseModel:
    """A transformers model: the modules that LoRA can wrap, and every other parameter of two or more dimensions."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    modules: dict[str, BaseModule] = {}
    parameters: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        bias = getattr(module, "bias", None) is not None
        if isinstance(module, nn.Embedding):
            modules[path] = BaseModule(module.num_embeddings, module.embedding_dim, "embedding")
        elif isinstance(module, nn.Linear):
            modules[path] = BaseModule(module.in_features, module.out_features, bias=bias)
        elif isinstance(module, Conv1D):
            modules[path] = BaseModule(module.nx, module.nf, "conv1d", bias)
        else:
            own = module.named_parameters(recurse=False, remove_duplicate=False)
            parameters |= {f"{path}.{name}": tuple(one.shape) for name, one in own if one.dim() >= 2}
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
