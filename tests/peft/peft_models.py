"""What the real PEFT does with a config on a tiny model, as plain values: the oracle of the tests beside this file."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_cli.base.base_model import BaseModel
from lora_cli.runtime.module_tree import describe
from tests.making import base_config


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that PEFT made: ``parameter`` is the wrapped parameter's name, empty for a module."""

    r: int
    lora_alpha: float
    scaling: float
    parameter: str
    num_experts: int


@dataclass(frozen=True, slots=True)
class Written:
    """An adapter that PEFT wrote: its layers by the wrapper's path, and the config before PEFT resolved it."""

    directory: Path
    base: BaseModel
    layers: Mapping[str, Layer]
    raw: Mapping[str, Any]


def tiny_model(family: str, **overrides: Any) -> Any:
    """A transformers model of ``base_config``, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**base_config(family, **overrides))
    return AutoModelForCausalLM.from_config(config)


def as_base(model: Any) -> BaseModel:
    """The ``BaseModel`` of a transformers model, from the model itself, with every parameter."""
    parameters = {path: tuple(parameter.shape) for path, parameter in model.named_parameters()}
    return replace(describe(model, model.config.model_type), parameters=parameters)


def write_with_peft(directory: Path, family: str, options: Mapping[str, Any], base: Mapping[str, Any]) -> Written:
    """Put a LoRA with ``options`` on a tiny model of ``family``, and save it in ``directory``."""
    with warnings.catch_warnings():
        # PEFT, transformers and torch warn of each other; none of it is about what is compared here.
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        model = tiny_model(family, **base)
        described, config = as_base(model), LoraConfig(**options)
        raw = {name: list(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
        adapted = get_peft_model(model, config)
        adapted.save_pretrained(directory)
    return Written(directory, described, layers_of(adapted), raw)


def layers_of(adapted: Any) -> dict[str, Layer]:
    """The layers of the adapter in a model that PEFT adapted, by the wrapper's path."""
    from peft.tuners.lora import LoraLayer

    return {
        path: Layer(
            *(module.r["default"], module.lora_alpha["default"], module.scaling["default"]),
            getattr(module, "parameter_name", ""),
            getattr(module, "num_experts", 1),
        )
        for path, module in adapted.base_model.model.named_modules()
        if isinstance(module, LoraLayer)
    }
