"""What an adapter has beside factors in its slot: DoRA's magnitudes, biases, modules saved whole, fused experts.

It is read with the factors and kept beside their place, in the slots' dtype. ``variants`` composes it onto the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.grouping import by_key
from lora_cli.errors import Refused
from lora_cli.runtime.composable import Named, named_beside, scalings
from lora_cli.runtime.weights import factors, read_tensors


@dataclass(frozen=True, slots=True)
class Update:
    """``scaling * b @ a`` on a parameter of one or many experts.

    ``a`` is ``[experts * r, d_in]``, ``b`` is ``[d_out, r * experts]``, as PEFT saves them.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True)
class Beside:
    """One module's share, by PEFT's words.

    ``params`` stand in place of the module's own, by name; ``updates`` are added to them. ``magnitude`` is DoRA's,
    ``[d_out]``, and ``shift`` the bias on lora_B times the scaling, ``[d_out]``.
    """

    params: Mapping[str, torch.Tensor] = field(default_factory=dict)
    updates: Mapping[str, Update] = field(default_factory=dict)
    magnitude: torch.Tensor | None = None
    shift: torch.Tensor | None = None


def read_beside(directory: Path, adapter: Adapter, base: BaseModel, dtype: torch.dtype) -> dict[str, Beside]:
    """All of it by module path, which is empty for plain LoRA.

    Raises:
        Refused: a value is NaN or Inf.
        FormatError, Corrupt, MachineError: as ``read_weights``.
    """
    named = named_beside(adapter, base)
    names = [name for one in named.values() for name in _names(one, adapter)]
    held = _read(directory, adapter, names, dtype)
    scaling = scalings(adapter, base, whole=True)
    return {path: _beside(one, held, adapter, scaling.get(path, 1.0)) for path, one in named.items()}


def beside_bytes(adapter: Adapter, base: BaseModel, dtype: torch.dtype) -> int:
    """What ``read_beside`` will take, from the header alone."""
    names = [name for one in named_beside(adapter, base).values() for name in _names(one, adapter)]
    elements = sum(torch.Size(adapter.tensors[name].shape).numel() for name in names)
    return elements * dtype.itemsize


def _names(named: Named, adapter: Adapter) -> list[str]:
    experts = [info.name for wrapper, _ in named.updates.values() for info in factors(adapter, wrapper)]
    single = [name for name in (named.magnitude, named.shift) if name]
    return [*named.params.values(), *experts, *single]


def _read(directory: Path, adapter: Adapter, names: list[str], dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    held: dict[str, torch.Tensor] = {}
    for file, members in by_key((adapter.tensors[name].file, name) for name in names).items():
        read = read_tensors(directory / file, [adapter.tensors[name] for name in members])
        held |= {name: read[name].to(dtype, copy=True) for name in members}
    for name, tensor in held.items():
        if not bool(torch.isfinite(tensor).all()):
            raise Refused(f"{adapter.name}: {name} holds NaN or Inf", hint="its training diverged")
    return held


def _beside(named: Named, held: Mapping[str, torch.Tensor], adapter: Adapter, scaling: float) -> Beside:
    updates = {}
    for param, (wrapper, expert_scaling) in named.updates.items():
        a, b = (held[info.name] for info in factors(adapter, wrapper))
        updates[param] = Update(a, b, expert_scaling)
    found = Beside({param: held[name] for param, name in named.params.items()}, updates)
    if named.magnitude:
        found = replace(found, magnitude=held[named.magnitude].flatten())
    if named.shift:
        found = replace(found, shift=held[named.shift] * scaling)
    return found
