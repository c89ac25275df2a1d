"""How a module answers for a slot whose adapter has more than factors: DoRA, biases, whole modules, fused experts.

PEFT 0.21 is the source: ``tuners/lora/dora.py`` (``y = m / |W + s*B*A| * (W + s*B*A) x + bias``, the norm by rows),
``tuners/lora/layer.py`` (``ParamWrapper``: a 3-D parameter is updated expert by expert, and B's rank runs faster than
its experts), ``utils/other.py`` (``ModulesToSaveWrapper``).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_cli.errors import Refused
from lora_cli.runtime.beside import Beside, Update
from lora_cli.runtime.linear import unpack


def _mapped(function: Callable[..., Any], *trees: Any) -> Any:
    """``function`` of what stands at each place of ``trees``, which are alike: mappings and sequences of tensors."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: _mapped(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, tuple | list):
        return tuple(_mapped(function, *parts) for parts in zip(*trees, strict=True))
    return function(*trees)


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
    """One module for one slot. ``params`` and ``updates`` make its base output anew; ``gain`` and ``shift`` end it.

    ``gain`` ``[d_out]`` is DoRA's, for all but ``bias``; ``shift`` ``[d_out]`` is added.
    """

    params: Mapping[str, torch.Tensor]
    updates: Mapping[str, Factored]
    gain: torch.Tensor | None
    shift: torch.Tensor | None
    bias: torch.Tensor | None

    def renew(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, span: slice
    ) -> None:
        """Make a span of the base's ``output`` anew with its parameters replaced, in place."""
        if not self.params and not self.updates:
            return
        own = dict(module.named_parameters())
        params = {**self.params, **{name: one.on(own[name]) for name, one in self.updates.items()}}
        size = len(args[0] if args else next(iter(kwargs.values())))

        def part(value: Any) -> Any:
            """The span of what has one entry for each row; anything else as it is."""
            return value[span] if isinstance(value, torch.Tensor) and value.dim() and len(value) == size else value

        renewed = torch.func.functional_call(
            _Bare(module),
            {f"module.{name}": one for name, one in params.items()},
            _mapped(part, args),
            _mapped(part, dict(kwargs)),
        )
        _mapped(lambda mine, new: part(mine).copy_(new), output, renewed)

    def finish(self, output: torch.Tensor, span: slice) -> None:
        """What is to be done to a span of the output after LoRA was added, in place."""
        if self.gain is not None:
            bias = 0 if self.bias is None else self.bias
            output[span].sub_(bias).mul_(self.gain).add_(bias)
        if self.shift is not None:
            output[span].add_(self.shift)


class _Bare(nn.Module):
    """A module's forward without its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


def variant(
    name: str, module: nn.Module | None, beside: Beside, merged: torch.Tensor | None, device: torch.device
) -> Variant:
    """What ``beside`` makes of ``module``; ``merged`` is its ``W + s*B*A`` ``[d_out, d_in]`` where DoRA needs it.

    Raises:
        Refused: the module is not there, or has other parameters; ``name`` says whose, of which adapter.
    """
    if module is None:
        raise Refused(f"{name} is no module of the model that transformers builds")
    if beside.params or beside.updates:
        unpack(module)
    own = dict(module.named_parameters(recurse=False))
    for param, shape in _shapes(beside, own, module):
        if param not in own:
            raise Refused(f"{name}.{param} is no parameter of the model that transformers builds")
        if own[param].shape != shape:
            raise Refused(f"{name}.{param} is {list(shape)}, and the model's is {list(own[param].shape)}")
    params = {param: tensor.to(device) for param, tensor in beside.params.items()}
    updates = {param: _factored(one, own[param], module, device) for param, one in beside.updates.items()}
    gain = None
    if beside.magnitude is not None:
        if merged is None or hasattr(module, "embed_scale") or len(beside.magnitude) != len(merged):
            raise Refused(f"{name} has a DoRA magnitude that does not belong to its factors, or a scaled embedding")
        norm = torch.linalg.norm(merged, dim=1)
        gain = (beside.magnitude.to(device, norm.dtype) / norm).to(beside.magnitude.dtype)
    shift = None if beside.shift is None else beside.shift.to(device)
    return Variant(params, updates, gain, shift, params.get("bias", own.get("bias")))


def _shapes(
    beside: Beside, own: Mapping[str, torch.Tensor], module: nn.Module
) -> Iterable[tuple[str, tuple[int, ...]]]:
    """The parameters that it is for, and the shape that each must have there."""
    for param, tensor in beside.params.items():
        yield param, tuple(tensor.shape)
    for param, update in beside.updates.items():
        width, depth = update.b.shape[0], update.a.shape[1]
        if param in own and own[param].dim() == 3:
            matrix = (depth, width) if getattr(module, "is_transposed", False) else (width, depth)
            yield param, (own[param].shape[0], *matrix)
        else:
            yield param, (width, depth)


def _factored(update: Update, own: torch.Tensor, module: nn.Module, device: torch.device) -> Factored:
    experts = own.shape[0] if own.dim() == 3 else 1
    if update.a.shape[0] % experts or update.a.shape[0] != update.b.shape[1]:
        raise Refused(f"factors of rank {update.a.shape[0]} and {update.b.shape[1]} are none for {experts} experts")
    a = update.a.to(device).view(experts, -1, update.a.shape[1])
    b = update.b.to(device).view(update.b.shape[0], -1, experts).permute(2, 0, 1)
    if own.dim() == 3 and getattr(module, "is_transposed", False):
        return Factored(a.transpose(1, 2), b.transpose(1, 2), update.scaling)
    return Factored(b, a, update.scaling)
