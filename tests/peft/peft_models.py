"""What the real PEFT does with a config on a tiny model, as plain values: the oracle of the tests beside this file."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.base.base_model import BaseModel, BaseModule
from tests.making import base_config
from tests.peft.peft_ways import Way, plain


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
    """An adapter that PEFT wrote.

    ``layers`` are by the wrapper's path. ``raw`` is the config as it was given, before PEFT resolved it against the
    model; ``live_names`` are the adapter's tensors as they are named in the model.
    """

    directory: Path
    base: BaseModel
    layers: Mapping[str, Layer]
    raw: Mapping[str, Any]
    live_names: tuple[str, ...]
    adapter_name: str = "default"


def tiny_model(family: str, **overrides: Any) -> Any:
    """A transformers model of ``base_config``, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**base_config(family, **overrides))
    return AutoModelForCausalLM.from_config(config)


def as_base(model: Any) -> BaseModel:
    """The ``BaseModel`` of a transformers model, from the model itself."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    modules: dict[str, BaseModule] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            modules[path] = BaseModule(module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            modules[path] = BaseModule(module.nx, module.nf, "conv1d")
        elif isinstance(module, nn.Embedding):
            modules[path] = BaseModule(module.num_embeddings, module.embedding_dim, "embedding")
    return BaseModel(
        name="tiny",
        model_type=model.config.model_type,
        modules=modules,
        num_layers=model.config.num_hidden_layers,
        hidden_size=model.config.hidden_size,
        vocab_size=model.config.vocab_size,
        tied_embeddings=bool(model.config.tie_word_embeddings),
        parameters={path: tuple(parameter.shape) for path, parameter in model.named_parameters()},
    )


def write_with_peft(
    directory: Path, family: str, options: Mapping[str, Any], base: Mapping[str, Any], way: Way = plain
) -> Written:
    """Put a LoRA with ``options`` on a tiny model of ``family``, and save it below ``directory``."""
    with warnings.catch_warnings():
        # PEFT, transformers and torch warn of each other; none of it is about what is compared here.
        warnings.simplefilter("ignore")
        from peft import LoraConfig, LoraRuntimeConfig

        model = tiny_model(family, **base)
        described = as_base(model)
        runtime = LoraRuntimeConfig(**options.get("runtime_config", {}))
        config = LoraConfig(**{**options, "runtime_config": runtime})
        raw = {name: list(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
        adapted, name = way(model, config, directory / "before")
        adapted.save_pretrained(directory, selected_adapters=[name])
    saved = directory if name == "default" else directory / name
    return Written(saved, described, layers_of(adapted, name), raw, _live_names(adapted, name), name)


def layers_of(adapted: Any, name: str = "default") -> dict[str, Layer]:
    """The layers of the adapter ``name`` in a model that PEFT adapted, by the wrapper's path."""
    from peft.tuners.lora import LoraLayer

    return {
        path: Layer(
            module.r[name],
            module.lora_alpha[name],
            module.scaling[name],
            getattr(module, "parameter_name", ""),
            getattr(module, "num_experts", 1),
        )
        for path, module in adapted.base_model.model.named_modules()
        if isinstance(module, LoraLayer)
    }


def _live_names(adapted: Any, adapter: str) -> tuple[str, ...]:
    """Names of the adapter's tensors in the model; of tensors that share memory (tied ones), the first."""
    seen: dict[int, str] = {}
    for name, tensor in adapted.state_dict().items():
        if ("lora_" in name or "trainable_tokens_delta" in name) and f".{adapter}" in name:
            seen.setdefault(tensor.untyped_storage().data_ptr(), name)
    return tuple(seen.values())
