"""Slots: an adapter's factors, padded with zeros to one rank, in one piece of memory each. Slot 0 is the base."""

from collections.abc import Mapping

import torch

from lora_cli.core.base_model import BaseModule
from lora_cli.core.frozen import dataclass
from lora_cli.errors import MachineError, Refused
from lora_cli.runtime.weights import LoraWeights, ModuleWeights

BASE_SLOT = 0


@dataclass(frozen=True, slots=True)
class Stack:
    """One module's factors in all slots, as views of the slots' storage.

    ``a`` is ``[slots, max_lora_rank, d_in]`` (``d_in`` is the vocabulary for an embedding); ``b`` is B transposed,
    ``[slots, max_lora_rank, d_out]``, so that the rows of any rank lie together; ``scaling`` is ``[slots]``.
    Rows at and above an adapter's rank are zero in both.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: torch.Tensor
    embedding: bool = False


class Slots:
    """Holds ``max_loras`` adapters beside the base, for ``modules`` of one base model.

    The storage is ``[1 + max_loras, slot elements]``: an adapter is one contiguous piece, its modules in order.
    Nothing of an adapter that left can be seen by the next one in its slot.
    """

    def __init__(
        self,
        modules: Mapping[str, BaseModule],
        max_loras: int,
        max_lora_rank: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_loras, self.max_lora_rank, self.dtype = max_loras, max_lora_rank, dtype
        elements = max_lora_rank * sum(module.d_in + module.d_out for module in modules.values())
        self.slot_bytes = elements * dtype.itemsize
        self._storage = torch.zeros(1 + max_loras, elements, dtype=dtype, device=device)
        self.stacks: dict[str, Stack] = {}
        start = 0
        for path, module in modules.items():
            self.stacks[path] = self._stack(start, module)
            start += max_lora_rank * (module.d_in + module.d_out)
        self._ranks: dict[int, dict[str, int]] = {}

    def put(self, weights: LoraWeights) -> int:
        """Copy an adapter into a free slot and give its number. All is checked before anything is written.

        Raises:
            Refused: a rank is above ``max_lora_rank``, a module has no storage, or its shape is not the base's.
            MachineError: no slot is free.
        """
        for path, module in weights.modules.items():
            self._check(weights.name, path, module)
        slot = self._free()
        self._ranks[slot] = {}
        for path, module in weights.modules.items():
            self._write(slot, path, module)
        return slot

    def clear(self, slot: int) -> None:
        """Free a slot. Its rows are zeros again."""
        for path, rank in self._ranks.pop(slot, {}).items():
            stack = self.stacks[path]
            stack.a[slot, :rank] = 0
            stack.b[slot, :rank] = 0
            stack.scaling[slot] = 0

    def used(self) -> tuple[int, ...]:
        """The slots that hold an adapter."""
        return tuple(sorted(self._ranks))

    def on(self, slot: int) -> tuple[str, ...]:
        """The modules of the adapter in ``slot``, in its own order; none for a free slot."""
        return tuple(self._ranks.get(slot, ()))

    def _stack(self, start: int, module: BaseModule) -> Stack:
        slots, rank = self._storage.shape[0], self.max_lora_rank
        middle, stop = start + rank * module.d_in, start + rank * (module.d_in + module.d_out)
        exact = torch.float32 if self.dtype.itemsize < 4 else self.dtype
        return Stack(
            a=self._storage[:, start:middle].view(slots, rank, module.d_in),
            b=self._storage[:, middle:stop].view(slots, rank, module.d_out),
            scaling=torch.zeros(slots, dtype=exact, device=self._storage.device),
            embedding=module.kind == "embedding",
        )

    def _check(self, name: str, path: str, module: ModuleWeights) -> None:
        if module.rank > self.max_lora_rank:
            raise Refused(
                f"{name}: {path} has rank {module.rank}, above the largest that a slot takes ({self.max_lora_rank})",
                hint=f"--max-lora-rank {module.rank}",
            )
        stack = self.stacks.get(path)
        if stack is None:
            raise Refused(f"{name}: {path} has no place in the slots of this base", hint="check --base")
        have = (module.a.shape[1], module.b.shape[0], module.embedding)
        want = (stack.a.shape[2], stack.b.shape[2], stack.embedding)
        if have != want:
            raise Refused(
                f"{name}: {path} maps {have[0]} to {have[1]}{' (embedding)' * have[2]}, "
                f"but the base's maps {want[0]} to {want[1]}{' (embedding)' * want[2]}",
                hint="check --base: the adapter was made for another model",
            )

    def _free(self) -> int:
        for slot in range(1, 1 + self.max_loras):
            if slot not in self._ranks:
                return slot
        raise MachineError(f"all {self.max_loras} slots are taken", hint="raise --max-loras")

    def _write(self, slot: int, path: str, module: ModuleWeights) -> None:
        stack = self.stacks[path]
        self._ranks[slot][path] = module.rank
        stack.a[slot, : module.rank].copy_(module.a)
        stack.b[slot, : module.rank].copy_(module.b.t())
        # As a tensor, a scaling beyond float32 becomes infinite, which the proof finds; as a number it raises.
        stack.scaling[slot] = torch.tensor(module.scaling, dtype=torch.float64)
