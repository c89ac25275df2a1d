"""Slots: the storage of adapters. Each slot has one of a few ranks. Slot 0 is the base, without storage.

For each *rank class* there is a pool of slots; an adapter is in the narrowest that takes it, module after module A
``[class, d_in]`` and B ``[d_out, class]`` as its file has them, with zeros beyond its own rank. So a factor whose rank
is the class's is read to its place, and a module's factors in neighbouring slots are one view ``[slots, class, d_in]``.

On a CPU a module's factors of all slots lie together, because its products of bfloat16 copy whatever does not. Where
adapters are copied to a device each is one piece, there and in memory, and the copy is one.
"""

import mmap
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lora_cli.base.base_model import BaseModule
from lora_cli.errors import MachineError, Refused

BASE_SLOT = 0
HUGE = 1 << 21
"""Bytes of a huge page."""

NARROWEST, APART = 8, 4
"""The smallest rank class there is next to the largest, and how much narrower each is than the next: a class more is a
product more for every module of a batch that mixes them, which costs more than the zeros of one less.
"""


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's factors in all slots of a rank class, which are those from ``first`` on.

    ``a`` is ``[slots, class, d_in]`` (``d_in`` is the vocabulary for an embedding), ``b`` ``[slots, d_out, class]``.
    """

    first: int
    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True)
class Stack:
    """One module in all slots: its ``factors`` by rank class, and ``scaling`` ``[1 + slots]``, which no factor has."""

    factors: Mapping[int, Factors]
    scaling: torch.Tensor
    d_in: int
    d_out: int
    embedding: bool


class Shape(NamedTuple):
    """One module of an adapter: an update of ``rank`` that maps ``d_in`` to ``d_out``."""

    rank: int
    d_in: int
    d_out: int
    embedding: bool = False

    def __str__(self) -> str:
        """Such as ``24 to 40``."""
        return f"{self.d_in} to {self.d_out}{' (embedding)' * self.embedding}"


def rank_classes(max_lora_rank: int) -> tuple[int, ...]:
    """The ranks at which adapters are in their slots, ascending: the largest, a quarter of it, down to 8."""
    classes = [max_lora_rank]
    while classes[0] >= NARROWEST * APART:
        classes.insert(0, -(-classes[0] // APART))
    return tuple(classes)


def adapter_bytes(modules: Mapping[str, BaseModule], rank: int, dtype: torch.dtype) -> int:
    """The bytes of an adapter of that rank on all ``modules``."""
    return rank * sum(module.d_in + module.d_out for module in modules.values()) * dtype.itemsize


def storage_bytes(modules: Mapping[str, BaseModule], max_loras: int, max_lora_rank: int, dtype: torch.dtype) -> int:
    """The bytes of slots with room for ``max_loras`` adapters in every rank class, whatever their ranks are."""
    return max_loras * adapter_bytes(modules, sum(rank_classes(max_lora_rank)), dtype)


class Slots:
    """Holds ``max_loras`` adapters next to the base, for ``modules`` of one base model.

    ``changes`` counts how often an adapter came or went. A slot is reserved, written and scaled; until it is scaled its
    adapter adds nothing. Nothing of an adapter that left can be seen by the next one in its slot. With ``one_piece``
    each adapter is one, to be copied to a device. Safe to use from several threads, each with a slot of its own.
    """

    def __init__(
        self,
        modules: Mapping[str, BaseModule],
        max_loras: int,
        max_lora_rank: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        one_piece: bool = False,
    ) -> None:
        self.max_loras, self.max_lora_rank, self.dtype = max_loras, max_lora_rank, dtype
        self.classes = rank_classes(max_lora_rank)
        self.slot_bytes = adapter_bytes(modules, max_lora_rank, dtype)
        elements = storage_bytes(modules, max_loras, max_lora_rank, dtype) // dtype.itemsize
        self.storage = _zeros(elements, dtype, torch.device(device), pinned=one_piece and torch.cuda.is_available())
        exact = torch.float32 if dtype.itemsize < 4 else dtype
        self._scalings = torch.zeros(1 + max_loras * len(self.classes), len(modules), dtype=exact, device=device)
        self._width = self.slot_bytes // dtype.itemsize // max_lora_rank
        self.stacks: dict[str, Stack] = {}
        start = 0
        for number, (path, module) in enumerate(modules.items()):
            factors = {rank: self._factors(rank, start, module, one_piece=one_piece) for rank in self.classes}
            scaling = self._scalings[:, number]
            self.stacks[path] = Stack(factors, scaling, module.d_in, module.d_out, module.kind == "embedding")
            start += module.d_in + module.d_out
        self.changes = 0
        self._tenants: dict[int, Mapping[str, int]] = {}
        self._stale: dict[int, Mapping[str, int]] = {}
        self._lock = threading.Lock()

    def reserve(self, name: str, shapes: Mapping[str, Shape]) -> int:
        """A free slot for the adapter ``name`` with those modules, whose factors are to be written over what is there.

        All that they will not write is zeros. All is checked before anything is touched.

        Raises:
            Refused: a rank is above ``max_lora_rank``, a module has no storage, or its shape is not the base's.
            MachineError: no slot is free.
        """
        self.check(name, shapes)
        widest = max((shape.rank for shape in shapes.values()), default=0)
        ranks = {path: shape.rank for path, shape in shapes.items()}
        slot, stale = self._take(next(one for one in self.classes if widest <= one), ranks)
        for path, was in stale.items():
            if was > (rank := ranks.get(path, 0)):
                a, b = self.at(slot, path)
                a[rank:was] = 0
                b[:, rank:was] = 0
        return slot

    def check(self, name: str, shapes: Mapping[str, Shape]) -> None:
        """Raises ``Refused`` as ``reserve`` does, and touches nothing."""
        for path, shape in shapes.items():
            self._check(name, path, shape)

    def scale(self, slot: int, scalings: Mapping[str, float]) -> None:
        """Sets the scaling of each module of the adapter in ``slot``; from then on it has an effect."""
        # As a tensor, a scaling beyond float32 becomes infinite, which the proof finds; as a number it raises.
        of_modules = [scalings.get(path, 0.0) for path in self.stacks]
        self._scalings[slot] = torch.tensor(of_modules, dtype=torch.float64).to(self._scalings)

    def put_from(self, memory: "Slots", place: int) -> int:
        """Copy an adapter from a place in ``memory``, laid out as this, into a free slot: both have it in one piece."""
        slot, _ = self._take(memory.rank_class(place), memory._tenants[place])
        self._piece(slot).copy_(memory._piece(place), non_blocking=True)
        self._scalings[slot].copy_(memory._scalings[place], non_blocking=True)
        return slot

    def clear(self, slot: int) -> None:
        """Frees a slot: its adapter has no effect any more, and none on the next one there."""
        with self._lock:
            if slot in self._tenants:
                self._stale[slot] = self._tenants.pop(slot)
                self.changes += 1
                self._scalings[slot] = 0

    def at(self, slot: int, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """One module's A ``[class, d_in]`` and B ``[d_out, class]`` in a slot."""
        factors = self.stacks[path].factors[self.rank_class(slot)]
        return factors.a[slot - factors.first], factors.b[slot - factors.first]

    def rank_class(self, slot: int) -> int:
        """The rank class of a slot."""
        return self.classes[(slot - 1) // self.max_loras]

    def used(self) -> tuple[int, ...]:
        """The slots that hold an adapter."""
        return tuple(sorted(self._tenants))

    def on(self, slot: int) -> tuple[str, ...]:
        """The modules of the adapter in ``slot``, in its own order; none for a free slot and for the base's."""
        return tuple(self._tenants.get(slot, ()))

    def _factors(self, rank: int, start: int, module: BaseModule, *, one_piece: bool) -> Factors:
        """Views of the storage for a module that has ``start`` elements of rank 1 before it."""
        number, slots, width = self.classes.index(rank), self.max_loras, self._width
        pool = slots * width * sum(self.classes[:number])
        if one_piece:
            at, step = (pool + rank * start, pool + rank * (start + module.d_in)), (rank * width, rank * width)
        else:
            at = pool + slots * rank * start, pool + slots * rank * (start + module.d_in)
            step = rank * module.d_in, rank * module.d_out
        return Factors(
            1 + number * slots,
            self.storage.as_strided((slots, rank, module.d_in), (step[0], module.d_in, 1), at[0]),
            self.storage.as_strided((slots, module.d_out, rank), (step[1], rank, 1), at[1]),
        )

    def _piece(self, slot: int) -> torch.Tensor:
        """The storage of a slot, if that is in one piece."""
        number, row = divmod(slot - 1, self.max_loras)
        size = self._width * self.classes[number]
        start = self.max_loras * self._width * sum(self.classes[:number]) + row * size
        return self.storage[start : start + size]

    def _take(self, rank_class: int, ranks: Mapping[str, int]) -> tuple[int, Mapping[str, int]]:
        """A free slot of the class, from now on for modules of these ranks, and those of the previous adapter."""
        first = 1 + self.classes.index(rank_class) * self.max_loras
        with self._lock:
            if len(self._tenants) == self.max_loras:
                raise MachineError(f"all {self.max_loras} slots are in use", hint="raise --max-loras")
            slot = next(slot for slot in range(first, first + self.max_loras) if slot not in self._tenants)
            self._tenants[slot] = ranks
            self.changes += 1
            return slot, self._stale.pop(slot, {})

    def _check(self, name: str, path: str, shape: Shape) -> None:
        if shape.rank > self.max_lora_rank:
            raise Refused(
                f"{name}: {path} has rank {shape.rank}, above the maximum rank of a slot ({self.max_lora_rank})",
                hint=f"--max-lora-rank {shape.rank}",
            )
        stack = self.stacks.get(path)
        if stack is None:
            raise Refused(f"{name}: the slots of this base do not include {path}", hint="check --base")
        want = Shape(shape.rank, stack.d_in, stack.d_out, stack.embedding)
        if shape != want:
            raise Refused(
                f"{name}: {path} maps {shape}, but the base's maps {want}",
                hint="check --base: the adapter was made for another model",
            )


def _zeros(elements: int, dtype: torch.dtype, device: torch.device, *, pinned: bool) -> torch.Tensor:
    """Zeros, in memory already; on a CPU in huge pages where there are any: reading into them takes a fifth less."""
    size = elements * dtype.itemsize
    pinned = pinned and device.type == "cpu"
    if device.type != "cpu" or pinned or size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(elements, dtype=dtype, device=device, pin_memory=pinned)
    pages = mmap.mmap(-1, -(-size // HUGE) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype)[:elements].zero_()
