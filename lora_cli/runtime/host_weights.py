"""The CPU tier's storage: adapters are read from the cache's packed file, or from their own, into host slots."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import Corrupt, MachineError, Refused
from lora_cli.reading.safetensors_writer import write_errors
from lora_cli.runtime.adapter_loader import load_into, shapes_of
from lora_cli.runtime.adapter_weights import LoraWeights, factors, read_tensors, read_weights
from lora_cli.runtime.base_weights import BaseWeights
from lora_cli.runtime.composable import copied_modules, scalings
from lora_cli.runtime.lora_slots import Slots
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.variants import ExtraWeights, extra_weight_bytes, read_extra_weights
from lora_cli.store import Store
from lora_cli.store.packed_weights import find_packed, packed_file, publish_packed

T = TypeVar("T")

Placed = Mapping[str, TensorInfo]
"""The place of each factor in a file, by name."""


def refuse_changed_copies(directory: Path, adapter: Adapter, base: BaseModel, weights: BaseWeights) -> None:
    """Compare every copy of the base's own weights, which PEFT saves next to a LoRA on an embedding or output layer.

    Its ``save_embedding_layers="auto"`` (``utils/save_and_load.py``) writes them whether or not they were changed. They
    say something only where they differ from the base's: a resized vocabulary, or layers that were trained as well.

    Raises:
        Refused: a copy differs, or there is no checkpoint to compare it with.
        Corrupt, MachineError: as reading raises.
    """
    for name, module in copied_modules(adapter, base).items():
        info = adapter.tensors[name]
        if weights.origin != "base":
            raise Refused(
                f"{adapter.name}: {info.name} is a copy of the base's own weight, but the base's weights are missing",
                hint="set --base to a directory with the model's safetensors files",
            )
        copy = read_tensors(directory / info.file, [info])[info.name]
        own = weights.weight(module)
        own = own.t() if base.modules[module].kind == "conv1d" else own
        if copy.shape != own.shape or not torch.equal(copy, own.to(copy.device, copy.dtype)):
            raise Refused(
                f"{adapter.name}: {info.name} differs from the base's own weight and cannot be composed yet",
                hint="it was trained on another base, or the layer was also trained",
            )


def packed_infos(store: Store, digest: str, adapter: Adapter, modules: Iterable[str]) -> Placed | None:
    """The place of each factor in the packed file of that snapshot, by name; None if it is not packed."""
    return find_packed(store, digest, (one for module in modules for one in factors(adapter, module)))


def pack(store: Store, digest: str, adapter: Adapter, weights: LoraWeights) -> None:
    """Keeps ``weights`` packed; where the cache may not be written, nothing happens.

    They are the bytes of the snapshot; nothing is cast. What a pickle has in strides is not packed.
    """
    infos = [info for module in weights.modules for info in factors(adapter, module)]
    if any(info.strides for info in infos):
        return
    parts = (part for module in weights.modules.values() for part in (module.a, module.b))
    tensors = {info.name: part for info, part in zip(infos, parts, strict=True)}

    def write(path: Path, metadata: Mapping[str, str]) -> None:
        with write_errors():
            save_file(tensors, path, dict(metadata))

    publish_packed(store, digest, infos, write)


class HostWeights:
    """The CPU tier's storage: a slot of ``host_slots`` for each adapter's factors, and its extra weights next to it.

    Without a ``full_model`` to compose them onto, adapters with extra weights are refused. If the device is the CPU, a
    host slot can be a device slot as well: it is free when neither tier uses it.
    """

    def __init__(self, host_slots: Slots, base: BaseModel, store: Store | None, *, full_model: bool) -> None:
        self.host_slots, self._base, self._store, self._full_model = host_slots, base, store, full_model
        self._extra: dict[int, dict[str, ExtraWeights]] = {}
        self._keepers: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._unpacked: set[str] = set()

    def weigh(self, lora: LoraRequest) -> int:
        """The bytes that it will take, from its header alone: a slot, and its extra weights."""
        extra = extra_weight_bytes(lora.adapter, self._base, self.host_slots.dtype) if self._full_model else 0
        return self.host_slots.slot_bytes + extra

    def scalings(self, lora: LoraRequest) -> dict[str, float]:
        """The modules that will have factors, with their scaling. Raises ``Refused`` for what cannot be composed."""
        return scalings(lora.adapter, self._base, full_model=self._full_model)

    def check(self, lora: LoraRequest, weights: BaseWeights) -> dict[str, float]:
        """Its ``scalings``; raises, before anything makes room for it, what is known without reading its factors."""
        scaling = self.scalings(lora)
        self.host_slots.check(lora.adapter.name, shapes_of(lora.adapter, scaling))
        refuse_changed_copies(lora.directory, lora.adapter, self._base, weights)
        return scaling

    def put(self, lora: LoraRequest) -> int:
        """Read an adapter, which passed ``check``, into a free place and give its number; raises as ``load_into``."""
        scaling = self.scalings(lora)
        extra = (
            read_extra_weights(lora.directory, lora.adapter, self._base, self.host_slots.dtype)
            if self._full_model
            else {}
        )
        place = self._from_files(
            lora, scaling, lambda folder, at: load_into(self.host_slots, folder, lora.adapter, scaling, at)
        )
        self._extra[place] = extra
        self.keep(place)
        return place

    def extra_weights(self, place: int) -> dict[str, ExtraWeights]:
        """The extra weights of the adapter there, by module path."""
        return self._extra[place]

    def keep(self, place: int) -> None:
        """Add a user of the slot."""
        with self._lock:
            self._keepers[place] += 1

    def let_go(self, place: int) -> None:
        """Remove a user; after the last one the slot is free."""
        with self._lock:
            self._keepers[place] -= 1
            if not self._keepers[place]:
                del self._keepers[place], self._extra[place]
                self.host_slots.clear(place)

    def weights(self, lora: LoraRequest) -> LoraWeights:
        """The adapter's factors, read from its files independently of any slot, for the proof."""
        scaling = self.scalings(lora)
        return self._from_files(lora, scaling, lambda folder, at: read_weights(folder, lora.adapter, scaling, at))

    def is_unpacked(self, lora: LoraRequest) -> bool:
        """Whether it was read from its own files, and is worth packing."""
        return lora.key in self._unpacked

    def pack(self, lora: LoraRequest, weights: LoraWeights | None = None) -> None:
        """Pack what was read from its snapshot. It is for the next time, so no load waits for it."""
        self._unpacked.discard(lora.key)
        assert self._store is not None
        pack(self._store, lora.digest, lora.adapter, weights or self.weights(lora))

    def _from_files(self, lora: LoraRequest, modules: Iterable[str], read: Callable[[Path, Placed | None], T]) -> T:
        """The result of ``read`` for the folder of the packed file, if there is one, else for the adapter's own."""
        if self._store is not None and lora.digest:
            packed = packed_infos(self._store, lora.digest, lora.adapter, modules)
            if packed is not None:
                with suppress(Corrupt, MachineError):  # another process removed it meanwhile
                    return read(packed_file(self._store, lora.digest).parent, packed)
            self._unpacked.add(lora.key)
        return read(lora.directory, None)
