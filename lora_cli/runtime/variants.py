"""Extra weights of an adapter besides factors in a slot, and their forward: DoRA, biases, modules, experts.

PEFT 0.21 is the source: ``tuners/lora/dora.py`` (``y = m / |W + s*B*A| * (W + s*B*A) x + bias``, the norm by rows),
``tuners/lora/layer.py`` (``ParamWrapper``: a 3-D parameter is updated expert by expert, and B's rank runs faster than
its experts), ``utils/other.py`` (``ModulesToSaveWrapper``).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_cli.adapter.adapter import Adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import Refused
from lora_cli.runtime.adapter_weights import ModuleWeights, factors, read_tensors
from lora_cli.runtime.composable import ExtraTensorNames, extra_tensor_names, scalings
from lora_cli.text import by_key


@dataclass(frozen=True, slots=True)
class ExtraWeights:
    """One module's extra weights, in PEFT's terms.

    ``params`` are in place of the module's own, by name; ``updates`` are added to them: for all experts of a parameter
    ``a`` is ``[experts * r, d_in]`` and ``b`` is ``[d_out, r * experts]``, as PEFT saves them. ``magnitude`` is DoRA's,
    ``[d_out]``, and ``shift`` the bias on lora_B times the scaling, ``[d_out]``.
    """

    params: Mapping[str, torch.Tensor] = field(default_factory=dict)
    updates: Mapping[str, ModuleWeights] = field(default_factory=dict)
    magnitude: torch.Tensor | None = None
    shift: torch.Tensor | None = None


def read_extra_weights(
    directory: Path, adapter: Adapter, base: BaseModel, dtype: torch.dtype
) -> dict[str, ExtraWeights]:
    """The extra weights by module path, in the slots' dtype; empty for plain LoRA.

    Raises:
        Refused: a value is NaN or Inf.
        FormatError, Corrupt, MachineError: as ``read_weights``.
    """
    named = extra_tensor_names(adapter, base)
    names = [name for one in named.values() for name in _names(one, adapter)]
    tensors = _read(directory, adapter, names, dtype)
    scaling = scalings(adapter, base, full_model=True)
    return {path: _extra(one, tensors, adapter, scaling.get(path, 1.0)) for path, one in named.items()}


def extra_weight_bytes(adapter: Adapter, base: BaseModel, dtype: torch.dtype) -> int:
    """The bytes that ``read_extra_weights`` will take, from the header alone."""
    names = [name for one in extra_tensor_names(adapter, base).values() for name in _names(one, adapter)]
    elements = sum(torch.Size(adapter.tensors[name].shape).numel() for name in names)
    return elements * dtype.itemsize


def _names(named: ExtraTensorNames, adapter: Adapter) -> list[str]:
    experts = [info.name for wrapper, _ in named.updates.values() for info in factors(adapter, wrapper)]
    single = [name for name in (named.magnitude, named.shift) if name]
    return [*named.params.values(), *experts, *single]


def _read(directory: Path, adapter: Adapter, names: list[str], dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file, members in by_key((adapter.tensors[name].file, name) for name in names).items():
        read = read_tensors(directory / file, [adapter.tensors[name] for name in members])
        tensors |= {name: read[name].to(dtype, copy=True) for name in members}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Refused(f"{adapter.name}: {name} contains NaN or Inf", hint="its training diverged")
    return tensors


def _extra(
    named: ExtraTensorNames, tensors: Mapping[str, torch.Tensor], adapter: Adapter, scaling: float
) -> ExtraWeights:
    updates = {}
    for param, (wrapper, expert_scaling) in named.updates.items():
        a, b = (tensors[info.name] for info in factors(adapter, wrapper))
        updates[param] = ModuleWeights(a, b, expert_scaling)
    return ExtraWeights(
        {param: tensors[name] for param, name in named.params.items()},
        updates,
        tensors[named.magnitude].flatten() if named.magnitude else None,
        tensors[named.shift] * scaling if named.shift else None,
    )


def _map_tree(function: Callable[..., Any], *trees: Any) -> Any:
    """``function`` of what is at each place of ``trees``, which are alike: mappings and sequences of tensors."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: _map_tree(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, tuple | list):
        return tuple(_map_tree(function, *parts) for parts in zip(*trees, strict=True))
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
    """One module for one slot. ``params`` and ``updates`` compute its base output again; ``gain`` and ``shift`` end it.

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
        """Compute a span of the base's ``output`` again with its parameters replaced, in place."""
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
            _map_tree(part, args),
            _map_tree(part, dict(kwargs)),
        )
        _map_tree(lambda mine, new: part(mine).copy_(new), output, renewed)

    def finish(self, output: torch.Tensor, span: slice) -> None:
        """Apply ``gain`` and ``shift`` to a span of the output after LoRA was added, in place."""
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
