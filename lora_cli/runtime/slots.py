"""Slots: the storage of adapters. Each lies in one piece, its modules in order, at a rank of few. Slot 0 is the base.

The storage is ``[1 + max_loras, slot elements]``. An adapter lies in its slot at the smallest *rank class* that takes
it: module after module A ``[class, d_in]`` and B transposed ``[class, d_out]``, with zeros below its own rank. So any
slot takes any adapter, each factor is contiguous at any rank, and adapters of one class in neighbouring slots are one
strided view ``[slots, class, d_in]``. The same layout stands in memory and on a device: from one to the other an
adapter is one copy.
"""

import threading
from collections.abc import Mapping

import torch

from lora_cli.core.base_model import BaseModule
from lora_cli.core.frozen import dataclass
from lora_cli.errors import MachineError, Refused
from lora_cli.runtime.weights import LoraWeights

BASE_SLOT = 0

NARROWEST, APART = 8, 4
"""The smallest rank class there is beside the largest, and how much narrower each is than the next: a class more is a
product more for every module of a batch that mixes them, which costs more than the zeros of one less."""


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's factors in all slots, seen at one rank class: only slots of that class mean anything in it.

    ``a`` is ``[slots, class, d_in]`` (``d_in`` is the vocabulary for an embedding), ``b`` is B transposed, ``[slots,
    class, d_out]``.
    """

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True)
class Stack:
    """One module in all slots: its ``factors`` by rank class, and ``scaling`` ``[slots]``, which is in no factor."""

    factors: Mapping[int, Factors]
    scaling: torch.Tensor
    d_in: int
    d_out: int
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What one module of an adapter takes: an update of ``rank`` that maps ``d_in`` to ``d_out``."""

    rank: int
    d_in: int
    d_out: int
    embedding: bool = False

    def __str__(self) -> str:
        """As ``24 to 40``."""
        return f"{self.d_in} to {self.d_out}{' (embedding)' * self.embedding}"


@dataclass(frozen=True, slots=True)
class Tenant:
    """What lies in a slot: the class it lies at, and the rank of each of its modules."""

    rank_class: int
    ranks: Mapping[str, int]


def rank_classes(max_lora_rank: int) -> tuple[int, ...]:
    """The ranks at which adapters lie in their slots, ascending: the largest, a quarter of it, down to 8."""
    classes = [max_lora_rank]
    while classes[0] >= NARROWEST * APART:
        classes.insert(0, -(-classes[0] // APART))
    return tuple(classes)


def slot_bytes(modules: Mapping[str, BaseModule], max_lora_rank: int, dtype: torch.dtype) -> int:
    """What a slot takes."""
    return max_lora_rank * sum(module.d_in + module.d_out for module in modules.values()) * dtype.itemsize


class Slots:
    """Holds ``max_loras`` adapters beside the base, for ``modules`` of one base model.

    A slot is reserved, written and scaled; until it is scaled its adapter adds nothing. Nothing of an adapter that left
    can be seen by the next one in its slot. Safe to use from several threads, each with a slot of its own.
    """

    def __init__(
        self,
        modules: Mapping[str, BaseModule],
        max_loras: int,
        max_lora_rank: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        pinned: bool = False,
    ) -> None:
        self.max_loras, self.max_lora_rank, self.dtype = max_loras, max_lora_rank, dtype
        self.classes = rank_classes(max_lora_rank)
        self.slot_bytes = slot_bytes(modules, max_lora_rank, dtype)
        elements = self.slot_bytes // dtype.itemsize
        self.storage = torch.zeros(1 + max_loras, elements, dtype=dtype, device=device, pin_memory=pinned)
        exact = torch.float32 if dtype.itemsize < 4 else dtype
        self._scalings = torch.zeros(1 + max_loras, len(modules), dtype=exact, device=device)
        self.stacks: dict[str, Stack] = {}
        self._starts: dict[str, int] = {}
        start = 0
        for number, (path, module) in enumerate(modules.items()):
            factors = {rank: self._factors(start, module, rank) for rank in self.classes}
            scaling = self._scalings[:, number]
            self.stacks[path] = Stack(factors, scaling, module.d_in, module.d_out, module.kind == "embedding")
            self._starts[path] = start
            start += module.d_in + module.d_out
        self._tenants: dict[int, Tenant] = {}
        self._stale: dict[int, Tenant] = {}
        self._lock = threading.Lock()

    def reserve(self, name: str, shapes: Mapping[str, Shape]) -> int:
        """A free slot for the adapter ``name`` with those modules, whose factors are to be written over what is there.

        All that they will not write is zeros. All is checked before anything is touched.

        Raises:
            Refused: a rank is above ``max_lora_rank``, a module has no storage, or its shape is not the base's.
            MachineError: no slot is free.
        """
        for path, shape in shapes.items():
            self._check(name, path, shape)
        widest = max((shape.rank for shape in shapes.values()), default=0)
        rank_class = next(one for one in self.classes if widest <= one)
        tenant = Tenant(rank_class, {path: shape.rank for path, shape in shapes.items()})
        with self._lock:
            slot = self._free(rank_class)
            self._tenants[slot] = tenant
            stale = self._stale.pop(slot, None)
        if stale is not None:
            self._sweep(slot, stale, tenant)
        return slot

    def scale(self, slot: int, scalings: Mapping[str, float]) -> None:
        """From here on the adapter in ``slot`` adds what its factors say, so many times, by module."""
        # As a tensor, a scaling beyond float32 becomes infinite, which the proof finds; as a number it raises.
        of_modules = [scalings.get(path, 0.0) for path in self.stacks]
        self._scalings[slot] = torch.tensor(of_modules, dtype=torch.float64).to(self._scalings)

    def put(self, weights: LoraWeights) -> int:
        """Copy an adapter into a free slot and give its number; raises as ``reserve``."""
        slot = self.reserve(
            weights.name,
            {
                path: Shape(module.rank, module.a.shape[1], module.b.shape[0], module.embedding)
                for path, module in weights.modules.items()
            },
        )
        for path, module in weights.modules.items():
            a, b = self.at(slot, path)
            a[: module.rank].copy_(module.a)
            b[: module.rank].copy_(module.b.t())
        self.scale(slot, {path: module.scaling for path, module in weights.modules.items()})
        return slot

    def put_from(self, other: "Slots", slot: int) -> int:
        """Copy what lies in a slot of ``other``, laid out as this one, into a free slot here: one piece."""
        tenant = other._tenants[slot]
        with self._lock:
            mine = self._free(tenant.rank_class)
            self._tenants[mine] = tenant
            stale = self._stale.pop(mine, None)
        if stale is not None and stale.rank_class > tenant.rank_class:
            self._piece(mine, stale.rank_class).zero_()
        piece = self._piece(mine, tenant.rank_class)
        piece.copy_(other._piece(slot, tenant.rank_class), non_blocking=True)
        self._scalings[mine].copy_(other._scalings[slot], non_blocking=True)
        return mine

    def clear(self, slot: int) -> None:
        """Free a slot: its adapter adds nothing any more, and what it left is zeroed before the next one is there."""
        with self._lock:
            tenant = self._tenants.pop(slot, None)
            if tenant is not None:
                self._stale[slot] = tenant
                self._scalings[slot] = 0

    def at(self, slot: int, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """One module's A ``[class, d_in]`` and B transposed ``[class, d_out]`` in a slot that is in use."""
        factors = self.stacks[path].factors[self._tenants[slot].rank_class]
        return factors.a[slot], factors.b[slot]

    def offsets(self, slot: int, path: str) -> tuple[int, int]:
        """Where in ``storage`` those two begin, in elements from its own beginning."""
        a = slot * self.storage.shape[1] + self._tenants[slot].rank_class * self._starts[path]
        return a, a + self._tenants[slot].rank_class * self.stacks[path].d_in

    def rank_class(self, slot: int) -> int:
        """The class at which the adapter in ``slot`` lies; 0 for a slot that is free, and for the base's."""
        tenant = self._tenants.get(slot)
        return 0 if tenant is None else tenant.rank_class

    def used(self) -> tuple[int, ...]:
        """The slots that hold an adapter."""
        return tuple(sorted(self._tenants))

    def on(self, slot: int) -> tuple[str, ...]:
        """The modules of the adapter in ``slot``, in its own order; none for a free slot."""
        tenant = self._tenants.get(slot)
        return () if tenant is None else tuple(tenant.ranks)

    def is_finite(self, slot: int) -> bool:
        """Whether nothing in a slot is NaN or Inf."""
        # aminmax carries both along, many times faster than ``isfinite().all()``.
        low, high = torch.aminmax(self._piece(slot, self.rank_class(slot)))
        return bool(torch.isfinite(low) & torch.isfinite(high))

    def _factors(self, start: int, module: BaseModule, rank: int) -> Factors:
        slots = self.storage.shape[0]
        middle, stop = rank * (start + module.d_in), rank * (start + module.d_in + module.d_out)
        return Factors(
            self.storage[:, rank * start : middle].view(slots, rank, module.d_in),
            self.storage[:, middle:stop].view(slots, rank, module.d_out),
        )

    def _piece(self, slot: int, rank_class: int) -> torch.Tensor:
        """All that an adapter of a class takes of its slot."""
        return self.storage[slot, : self.storage.shape[1] // self.max_lora_rank * rank_class]

    def _check(self, name: str, path: str, shape: Shape) -> None:
        if shape.rank > self.max_lora_rank:
            raise Refused(
                f"{name}: {path} has rank {shape.rank}, above the largest that a slot takes ({self.max_lora_rank})",
                hint=f"--max-lora-rank {shape.rank}",
            )
        stack = self.stacks.get(path)
        if stack is None:
            raise Refused(f"{name}: {path} has no place in the slots of this base", hint="check --base")
        want = Shape(shape.rank, stack.d_in, stack.d_out, stack.embedding)
        if shape != want:
            raise Refused(
                f"{name}: {path} maps {shape}, but the base's maps {want}",
                hint="check --base: the adapter was made for another model",
            )

    def _free(self, rank_class: int) -> int:
        """A free slot beside one of the same class, else the narrowest from the front and the others from the back."""
        free = [slot for slot in range(1, 1 + self.max_loras) if slot not in self._tenants]
        if not free:
            raise MachineError(f"all {self.max_loras} slots are taken", hint="raise --max-loras")
        if rank_class != self.classes[0]:
            free.reverse()
        beside = (slot for slot in free if rank_class in {self.rank_class(slot - 1), self.rank_class(slot + 1)})
        return next(beside, free[0])

    def _sweep(self, slot: int, stale: Tenant, tenant: Tenant) -> None:
        """Zero what the last one in a slot left where the next one will not write."""
        if stale.rank_class != tenant.rank_class:
            self._piece(slot, stale.rank_class).zero_()
            return
        for path, was in stale.ranks.items():
            rank = tenant.ranks.get(path, 0)
            a, b = self.at(slot, path)
            a[rank:was] = 0
            b[rank:was] = 0
