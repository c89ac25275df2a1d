"""Adapters that the real PEFT writes, with the updates that it makes of them: dense, module by module."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.core.peft_models import tiny_model

Dense = Mapping[str, Any]
"""Module path (as the adapter's tensors are named) to the update, ``[d_out, d_in]``; of experts ``[experts, …, …]``."""


def written_by_peft(
    directory: Path,
    family: str,
    options: Mapping[str, Any],
    *,
    base: Mapping[str, Any] = {},
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dense:
    """Put a LoRA with ``options`` on a tiny model, with random factors, save it, and give its updates."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        adapted = get_peft_model(tiny_model(family, **base), LoraConfig(**options)).to(dtype)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn_like(parameter.float()) * 0.3)
        adapted.save_pretrained(directory)
        return {path: dense(module) for path, module in _layers(adapted) if "default" in module.scaling}


def _layers(adapted: Any) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    named = adapted.base_model.model.named_modules()
    return [(path, module) for path, module in named if isinstance(module, LoraLayer)]


def dense(module: Any) -> Any:
    """The update of one of PEFT's layers in float64: its own formula where it has one for float64."""
    scaling = module.scaling["default"]
    if "default" in module.lora_embedding_A:
        factors = module.lora_embedding_B["default"], module.lora_embedding_A["default"]
        return np.asarray(factors[0].detach().double() @ factors[1].detach().double()) * scaling
    a, b = module.lora_A["default"], module.lora_B["default"]
    experts = getattr(module, "num_experts", 1)
    if experts > 1:
        wide = a.weight.detach().double().reshape(experts, -1, a.weight.shape[1])
        tall = b.weight.detach().double().reshape(len(b.weight), -1, experts)
        ours = torch.einsum("ore,eri->eoi", tall, wide) * scaling
        theirs = module.get_delta_weight("default").detach().double()
        theirs = theirs if theirs.shape == ours.shape and module._did_swap_in_out_features else theirs.transpose(1, 2)
        assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2)
        return ours.numpy()
    left, right = (_whole(one).detach().double() for one in (b, a))
    if "default" in getattr(module, "lora_diag", {}):
        right = module.lora_diag["default"].detach().double()[:, None] * right
    return np.asarray(left @ right) * scaling


def _whole(layer: Any) -> Any:
    return layer.weight_as_blockdiagonal_matrix() if hasattr(layer, "weight_as_blockdiagonal_matrix") else layer.weight
