"""A model as transformers makes it of a config alone, without the repository's own code: ``auto_map`` is left out."""

from collections.abc import Mapping
from typing import Any

from lora_cli.errors import FormatError, MissingExtra

WHERE = "config.json"


def built(config: Mapping[str, Any], *, dtype: Any = None, sees: bool = False) -> Any:
    """The model of a config of which there is an ``outline``, with random weights on torch's default device.

    It is in ``dtype`` (None: the config's). With ``sees`` one that has an eye is whole, else it is the language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    fields = {name: value for name, value in config.items() if name not in {"model_type", "auto_map"}}
    made = AutoConfig.for_model(config["model_type"], **fields)
    auto = AutoModelForImageTextToText if sees and hasattr(made, "vision_config") else AutoModelForCausalLM
    return auto.from_config(made, **({} if dtype is None else {"dtype": dtype}))


def outline(config: Mapping[str, Any], *, dtype: Any = None, sees: bool = False) -> Any:
    """As ``built``, on the meta device: no weight is allocated.

    Raises:
        MissingExtra: transformers or torch is not installed.
        FormatError: transformers makes no model of it.
    """
    try:
        import torch
        import transformers  # noqa: F401 - built imports it
        from huggingface_hub.errors import StrictDataclassError
    except ImportError as error:
        raise MissingExtra("a base model of this family", "models", error.name or "transformers") from error
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise FormatError("model_type is missing", where=WHERE, hint="name the config of a model")
    try:
        with torch.device("meta"):
            return built(config, dtype=dtype, sees=sees)
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
