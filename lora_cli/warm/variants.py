"""The forward of a module with more than factors in a slot: DoRA, biases, saved modules, fused experts.

PEFT 0.21 is the source: ``tuners/lora/dora.py`` (``y = m / |W + s*B*A| * (W + s*B*A) x + bias``, the norm by rows),
``tuners/lora/layer.py`` (``ParamWrapper``: a 3-D parameter is updated expert by expert, and B's rank runs faster than
its experts), ``utils/other.py`` (``ModulesToSaveWrapper``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_cli.errors import Refused
from lora_cli.warm.weights import ExtraWeights, ModuleWeights


@dataclass(frozen=True, slots=True)
class Factored:
    """``base + scaling * left @ right``, made when it is needed: a whole stack of experts is too large to keep."""

    left: torch.Tensor
    right: torch.Tensor
    scaling: float

    def on(self, base: torch.Tensor) -> torch.Tensor:
        """The parameter with its update."""
        flat = base if base.dim() == 3 else base[None]
        return torch.baddbmm(flat, self.left, self.right, alpha=self.scaling).view_as(base)


@dataclass(frozen=True, slots=True)
class Variant:
    """One module for one slot. ``params`` and ``updates`` compute its base output again; ``gain`` and ``shift`` end it.

    ``gain`` ``[d_out]`` is DoRA's, for all but ``bias``; ``shift`` ``[d_out]`` is added.
    """

    params: Mapping[str, torch.Tensor]
    updates: Mapping[str, Factored]
    gain: torch.Tensor | None
    shift: torch.Tensor | None
    bias: torch.Tensor | None

    def renewed(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        """The base's ``output`` computed again with its parameters replaced, or as it is if there are none."""
        if not self.params and not self.updates:
            return output
        own = dict(module.named_parameters())
        params = {**self.params, **{name: one.on(own[name]) for name, one in self.updates.items()}}
        named = {f"module.{name}": one for name, one in params.items()}
        return torch.func.functional_call(_Bare(module), named, args, dict(kwargs))

    def finished(self, output: torch.Tensor) -> torch.Tensor:
        """The output after LoRA was added, with ``gain`` and ``shift``."""
        if self.gain is not None:
            bias = 0 if self.bias is None else self.bias
            output = output.sub(bias).mul_(self.gain).add_(bias)
        return output if self.shift is None else output + self.shift


class _Bare(nn.Module):
    """A module's forward without its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


def variant(
    name: str, module: nn.Module | None, extra: ExtraWeights, merged: torch.Tensor | None, device: torch.device
) -> Variant:
    """The variant of ``module`` with ``extra``; ``merged`` is its ``W + s*B*A`` ``[d_out, d_in]`` where DoRA needs it.

    Raises:
        Refused: the module is not there, or has other parameters; ``name`` says whose, of which adapter.
    """
    if module is None:
        raise Refused(f"{name} is not a module of the model that transformers builds")
    own = dict(module.named_parameters(recurse=False))
    for param, shape in _shapes(extra, own, module):
        if param not in own:
            raise Refused(f"{name}.{param} is not a parameter of the model that transformers builds")
        if own[param].shape != shape:
            raise Refused(f"{name}.{param} is {list(shape)}, but the model's is {list(own[param].shape)}")
    params = {param: tensor.to(device) for param, tensor in extra.params.items()}
    updates = {param: _factored(one, own[param], module, device) for param, one in extra.updates.items()}
    gain = None
    if extra.magnitude is not None:
        if merged is None or hasattr(module, "embed_scale") or len(extra.magnitude) != len(merged):
            raise Refused(f"{name} has a DoRA magnitude that does not belong to its factors, or a scaled embedding")
        norm = torch.linalg.norm(merged, dim=1)
        gain = (extra.magnitude.to(device, norm.dtype) / norm).to(extra.magnitude.dtype)
    shift = None if extra.shift is None else extra.shift.to(device)
    return Variant(params, updates, gain, shift, params.get("bias", own.get("bias")))


def _shapes(
    extra: ExtraWeights, own: Mapping[str, torch.Tensor], module: nn.Module
) -> Iterable[tuple[str, tuple[int, ...]]]:
    """The parameters that it is for, and the shape that each must have there."""
    for param, tensor in extra.params.items():
        yield param, tuple(tensor.shape)
    for param, update in extra.updates.items():
        width, depth = update.b.shape[0], update.a.shape[1]
        if param in own and own[param].dim() == 3:
            matrix = (depth, width) if getattr(module, "is_transposed", False) else (width, depth)
            yield param, (own[param].shape[0], *matrix)
        else:
            yield param, (width, depth)


def _factored(update: ModuleWeights, own: torch.Tensor, module: nn.Module, device: torch.device) -> Factored:
    experts = own.shape[0] if own.dim() == 3 else 1
    if update.a.shape[0] % experts or update.a.shape[0] != update.b.shape[1]:
        raise Refused(f"factors of rank {update.a.shape[0]} and {update.b.shape[1]} do not fit {experts} experts")
    a = update.a.to(device).view(experts, -1, update.a.shape[1])
    b = update.b.to(device).view(update.b.shape[0], -1, experts).permute(2, 0, 1)
    if own.dim() == 3 and getattr(module, "is_transposed", False):
        return Factored(a.transpose(1, 2), b.transpose(1, 2), update.scaling)
    return Factored(b, a, update.scaling)
