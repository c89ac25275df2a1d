"""Reads an adapter's factors from its files into a slot in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from lora_cli.core.adapter import Adapter
from lora_cli.errors import Refused
from lora_cli.runtime.adapter_weights import factors, read_weights
from lora_cli.runtime.lora_slots import Shape, Slots


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
        FormatError, Corrupt: as ``read_weights`` raises.
        MachineError: a file cannot be read, or no slot is free.
    """
    slot = slots.reserve(adapter.name, shapes_of(adapter, scalings))
    try:
        for module, weights in read_weights(directory, adapter, scalings).modules.items():
            a, b = slots.at(slot, module)
            pairs = (weights.a, a[: weights.rank]), (weights.b, b[:, : weights.rank])
            for info, (factor, place) in zip(factors(adapter, module), pairs, strict=True):
                _refuse_not_finite(f"{adapter.name}: {info.name}", place.copy_(factor))
        slots.scale(slot, scalings)
    except BaseException:
        slots.clear(slot)
        raise
    return slot


def _refuse_not_finite(what: str, values: torch.Tensor) -> None:
    if not torch.isfinite(values).all():
        raise Refused(
            f"{what} contains NaN or Inf in {str(values.dtype).removeprefix('torch.')}",
            hint="its training diverged, or its values are too large for that dtype",
        )
