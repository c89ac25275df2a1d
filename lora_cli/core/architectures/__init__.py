"""``config.json`` → ``BaseModel``, by the table of families."""

from collections.abc import Mapping
from typing import Any

from lora_cli.core import parse
from lora_cli.core.architectures.build import WHERE, build
from lora_cli.core.architectures.families import FAMILIES
from lora_cli.core.architectures.table import Family
from lora_cli.core.base_model import BaseModel
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.core.text import shown
from lora_cli.errors import FormatError


class UnknownArchitecture(FormatError):
    """A config whose ``model_type`` has no table here, or that has none."""


def family_of(model_type: str) -> Family:
    """The table of one ``model_type``.

    Raises:
        UnknownArchitecture: there is none.
    """
    if model_type not in FAMILIES:
        raise UnknownArchitecture(
            f"unknown architecture {shown(model_type)}",
            where=f"{WHERE}: model_type",
            hint=did_you_mean(model_type, FAMILIES),
        )
    return FAMILIES[model_type]


def base_from_config(config: Mapping[str, Any], name: str) -> BaseModel:
    """The base model that a ``config.json`` describes, with the module paths of its class for text generation.

    For a multimodal wrapper that is the ``*ForConditionalGeneration`` class; for all others ``*ForCausalLM``.
    A key that is missing means what transformers' config class of the family takes for it. ``name`` is how the user
    called the model.

    Raises:
        UnknownArchitecture: the ``model_type`` has no table, or is missing.
        FormatError: it is an adapter's config, or a field has the wrong type or is beyond what any model has.
    """
    fields = parse.mapping(config, WHERE)
    if "peft_type" in fields:
        raise FormatError("is the config of an adapter", where=WHERE, hint="use the config of its base model")
    if "model_type" not in fields:
        raise UnknownArchitecture("model_type is missing", where=WHERE)
    model_type = parse.text(fields["model_type"], f"{WHERE}: model_type")
    return build(family_of(model_type), fields, name, source=f"config.json ({model_type}{quantised(fields)})")


def quantised(config: Mapping[str, Any]) -> str:
    """``", quantised: <method>"`` where the config says that the checkpoint is, else an empty string."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return ""
    method = quantization.get("quant_method")
    return f", quantised: {method if isinstance(method, str) else 'by an unknown method'}"
