"""Reads an adapter's factors from its files into a slot in memory."""

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path

import torch

from lora_cli.adapter.adapter import Adapter
from lora_cli.errors import Refused
from lora_cli.runtime.adapter_weights import factors, view_tensors
from lora_cli.runtime.lora_slots import Shape, Slots
from lora_cli.text import by_key


def shapes_of(adapter: Adapter, modules: Iterable[str]) -> dict[str, Shape]:
    """The shape of each of ``modules`` in a slot, by the adapter's header. Raises ``FormatError`` as ``load_into``."""
    pairs = {module: factors(adapter, module) for module in modules}
    return {
        module: Shape(a.shape[0], a.shape[1], b.shape[0], adapter.pairs[module].embedding)
        for module, (a, b) in pairs.items()
    }


def load_into(slots: Slots, directory: Path, adapter: Adapter, scalings: Mapping[str, float]) -> int:
    """Loads the modules in ``scalings`` into a free slot of ``slots``, which are in memory, and returns its number.

    Raises:
        Refused: a factor holds NaN or Inf; or as ``Slots.reserve`` says, before anything is read.
        FormatError, Corrupt, MachineError: as ``view_tensors`` raises; or no slot is free.
    """
    slot = slots.reserve(adapter.name, shapes_of(adapter, scalings))
    try:
        pairs = {module: factors(adapter, module) for module in scalings}
        tensors: dict[str, torch.Tensor] = {}
        for file, infos in by_key((info.file, info) for pair in pairs.values() for info in pair).items():
            tensors.update(view_tensors(directory / file, infos))
        for module, (a, b) in pairs.items():
            rank, (into_a, into_b) = a.shape[0], slots.at(slot, module)
            for info, place in ((a, into_a[:rank]), (b, into_b[:, :rank])):
                _refuse_not_finite(f"{adapter.name}: {info.name}", place.copy_(tensors[info.name]))
        slots.scale(slot, scalings)
    except BaseException:
        slots.clear(slot)
        raise
    return slot


def _refuse_not_finite(what: str, values: torch.Tensor) -> None:
    # NaN is its own minimum and maximum. With ``isfinite`` this takes eight times as long in bfloat16.
    if values.numel() and not all(map(isfinite, torch.aminmax(values))):
        raise Refused(
            f"{what} contains NaN or Inf in {str(values.dtype).removeprefix('torch.')}",
            hint="its training diverged, or its values are too large for that dtype",
        )
