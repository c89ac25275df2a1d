"""Models as transformers makes them of a config alone, and the module tree of an unknown family."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lora_cli.adapter.config import MAX_LAYERS
from lora_cli.base.base_model import MAX_EXPERTS, BaseModel, BaseModule
from lora_cli.base.families import UnknownArchitecture, architecture_of
from lora_cli.errors import FormatError, MissingExtra

WHERE = "config.json"

HEADS = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForAudioClassification",
    "AutoModel",
)
"""The classes to try if the config names none: the first that transformers has for its family is used."""


def causal_model(config: Mapping[str, Any], *, dtype: Any = None) -> Any:
    """The language model of a config, with random weights on torch's default device, in ``dtype`` (None: its own)."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(_config(config), **({} if dtype is None else {"dtype": dtype}))


def whole_model(config: Mapping[str, Any]) -> Any:
    """The model that adapters are trained on: by the config's ``architectures``, else by its family, with its towers.

    A class without a head (``ViTModel``) is taken for the first with one, whose modules adapters name.
    """
    import transformers

    made = _config(config)
    found: Any = getattr(transformers, architecture_of(config), None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if is_model and found.config_class is type(made):
        model = found(made)
        if model.base_model is not model:
            return model
    heads = ("AutoModelForImageTextToText", *HEADS) if hasattr(made, "vision_config") else HEADS
    for name in heads[:-1]:
        try:
            return getattr(transformers, name).from_config(made)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
    return transformers.AutoModel.from_config(made)


def _config(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = {name: _number(value) for name, value in config.items() if name not in {"model_type", "auto_map"}}
    return AutoConfig.for_model(config["model_type"], **fields)


def _number(value: Any) -> Any:
    """A field's value, with infinities and NaN as transformers writes them: ``{"__float__": "Infinity"}``."""
    if isinstance(value, list):
        return [_number(one) for one in value]
    said = value.get("__float__") if isinstance(value, Mapping) and len(value) == 1 else None
    return float(said) if said in {"Infinity", "-Infinity", "NaN"} else value


def outline(config: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The result of ``build`` for ``config`` on the meta device: no weight is allocated.

    Raises:
        MissingExtra: transformers or torch is not installed.
        FormatError: transformers makes no model of it.
    """
    try:
        import torch
        import transformers  # noqa: F401 - it is imported where it is needed
    except ImportError as error:
        raise MissingExtra("a base model of this family", "models", error.name or "transformers") from error
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FormatError("model_type is missing", where=WHERE, hint="use the config of a model")
    try:
        with torch.device("meta"):
            return build(config)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise FormatError(f"transformers cannot build a model of type {model_type!r}: {said}", where=WHERE) from error


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
        hint = error.hint or "judge without its base: --base none"
        raise UnknownArchitecture(error.reason, where=error.where, hint=hint) from error
    return replace(describe(model, config["model_type"]), architecture=architecture_of(config))


def _bound(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if isinstance(value, Mapping):
            _bound(value)
        most = COUNTS.get(name.rsplit("_", 1)[-1])
        for count in value if isinstance(value, list) else [value]:
            if most is not None and isinstance(count, int) and count > most:
                raise FormatError(f"{count} is over the limit of {most}", where=f"{WHERE}: {name}")


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
