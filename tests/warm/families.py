"""Tiny models that transformers builds and adapters that the real PEFT trains nothing on but saves."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_cli.warm.composed import ComposedModel, Slot
from lora_cli.warm.generation import Generation
from tests.making import base_config


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> nn.Module:
    """A causal language model of ``family`` with seeded weights, in float32, ready to answer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = base_config(family, **overrides)
    config = AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "torch_dtype"})
    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def save_model(directory: Path, family: str, **overrides: Any) -> Path:
    model: Any = tiny_model(family, **overrides)
    model.save_pretrained(directory)
    return directory


def with_peft(directory: Path, base: Path, seed: int = 0, **config: Any) -> tuple[Any, Path]:
    """PEFT's own model over ``base`` with a LoRA of random, non-zero factors, and where PEFT saved it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        composed: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in composed.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if "lora_magnitude_vector" in name:
                    parameter.mul_(1 + 0.2 * noise)
                elif "lora_" in name:
                    parameter.copy_(noise * 0.5 / max(parameter.shape[-1], 1) ** 0.5)
                elif parameter.requires_grad:
                    parameter.add_(noise * 0.1)
        composed.save_pretrained(directory)
    return composed.eval(), directory


def deltas(composed: Any) -> Mapping[str, torch.Tensor]:
    """PEFT's ``get_delta_weight`` by module path, of the modules that the adapter is on."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in composed.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def greedy(model: ComposedModel, prompt: Sequence[int], slot: Slot | None, tokens: int, *ends: int) -> list[int]:
    """The ids of an answer, step by step with a cache."""
    generation = Generation(model, [prompt], slot, tokens, frozenset(ends), lambda _: "")
    answer: list[int] = []
    while not generation.ended:
        answer += [one for delta in generation.step() for one in delta.ids]
    return answer
