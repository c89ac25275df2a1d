"""A model as transformers makes it of a config alone, without the repository's own code: ``auto_map`` is left out."""

from collections.abc import Callable, Mapping
from typing import Any

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
"""Which class is taken where the config does not say one: the first that transformers has for its family."""


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
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    found: Any = getattr(transformers, first, None) if isinstance(first, str) else None
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

    fields = {name: value for name, value in config.items() if name not in {"model_type", "auto_map"}}
    return AutoConfig.for_model(config["model_type"], **fields)


def outline(config: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """What ``build`` makes of ``config``, on the meta device: no weight is allocated.

    Raises:
        MissingExtra: transformers or torch is not installed.
        FormatError: transformers makes no model of it.
    """
    try:
        import torch
        import transformers  # noqa: F401 - it is imported where it is needed
        from huggingface_hub.errors import StrictDataclassError
    except ImportError as error:
        raise MissingExtra("a base model of this family", "models", error.name or "transformers") from error
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FormatError("model_type is missing", where=WHERE, hint="name the config of a model")
    try:
        with torch.device("meta"):
            return build(config)
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
    ) as error:
        said = " ".join(str(error).split())[:200]
        raise FormatError(f"transformers makes no model of a {model_type!r}: {said}", where=WHERE) from error
