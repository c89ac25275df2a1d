"""The CPU tier's places: adapters read from the cache's packed file, or from their own, to where they stay."""

import threading
from collections import Counter
from contextlib import suppress

from lora_cli.core.base_model import BaseModel
from lora_cli.errors import Corrupt, MachineError
from lora_cli.runtime.base_weights import BaseWeights
from lora_cli.runtime.beside import Beside, beside_bytes, read_beside
from lora_cli.runtime.composable import scalings
from lora_cli.runtime.copies import refuse_changed_copies
from lora_cli.runtime.loading import load_into
from lora_cli.runtime.messages import Job
from lora_cli.runtime.packing import pack, packed_infos, read_packed
from lora_cli.runtime.slots import Slots
from lora_cli.runtime.weights import LoraWeights, read_weights
from lora_cli.store import Store
from lora_cli.store.packed import packed_file


class Shelf:
    """Holds ``slab``, whose slots are the places, and by place what an adapter has beside its factors there.

    With ``whole`` there is a whole model to compose that onto; without one it is refused. Where memory is the device,
    a place can be a slot as well: it is free when neither tier keeps it.
    """

    def __init__(self, slab: Slots, base: BaseModel, store: Store | None, *, whole: bool) -> None:
        self.slab, self._base, self._store, self._whole = slab, base, store, whole
        self._beside: dict[int, dict[str, Beside]] = {}
        self._keepers: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._unpacked: set[str] = set()

    def weigh(self, job: Job) -> int:
        """What it will take, in bytes, from its header alone: a place, and what there is beside."""
        extra = beside_bytes(job.adapter, self._base, self.slab.dtype) if self._whole else 0
        return self.slab.slot_bytes + extra

    def scalings(self, job: Job) -> dict[str, float]:
        """The modules that will have factors, with their scaling. Raises ``Refused`` for what cannot be composed."""
        return scalings(job.adapter, self._base, whole=self._whole)

    def put(self, job: Job, weights: BaseWeights) -> int:
        """Read an adapter into a free place and give its number; raises as ``load_into``, ``refuse_changed_copies``."""
        scaling = self.scalings(job)
        refuse_changed_copies(job.directory, job.adapter, self._base, weights)
        beside = read_beside(job.directory, job.adapter, self._base, self.slab.dtype) if self._whole else {}
        place = self._load(job, scaling)
        self._beside[place] = beside
        self.keep(place)
        return place

    def beside(self, place: int) -> dict[str, Beside]:
        """What the adapter there has beside its factors, by module path."""
        return self._beside[place]

    def keep(self, place: int) -> None:
        """Somebody more needs what is there."""
        with self._lock:
            self._keepers[place] += 1

    def let_go(self, place: int) -> None:
        """One of those does not any more; after the last of them the place is free."""
        with self._lock:
            self._keepers[place] -= 1
            if not self._keepers[place]:
                del self._keepers[place], self._beside[place]
                self.slab.clear(place)

    def weights(self, job: Job) -> LoraWeights:
        """The adapter's factors as its files have them, read on their own: what a slot is held against."""
        scaling = self.scalings(job)
        packed = read_packed(self._store, job.digest, job.adapter, scaling) if self._store and job.digest else None
        return packed or read_weights(job.directory, job.adapter, scaling)

    def is_unpacked(self, job: Job) -> bool:
        """Whether it was read from its own files, and is worth packing."""
        return self._store is not None and job.key in self._unpacked

    def pack(self, job: Job, weights: LoraWeights | None = None) -> None:
        """Pack what was read from its snapshot. It is for the next time, so nobody's load is made to wait for it."""
        self._unpacked.discard(job.key)
        assert self._store is not None
        pack(self._store, job.digest, job.adapter, weights or self.weights(job))

    def _load(self, job: Job, scaling: dict[str, float]) -> int:
        if self._store is not None and job.digest:
            packed = packed_infos(self._store, job.digest, job.adapter, scaling)
            if packed is not None:
                folder = packed_file(self._store, job.digest).parent
                with suppress(Corrupt, MachineError):  # somebody took it away meanwhile
                    return load_into(self.slab, folder, job.adapter, scaling, packed)
            self._unpacked.add(job.key)
        return load_into(self.slab, job.directory, job.adapter, scaling)
