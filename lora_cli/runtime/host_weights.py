"""The CPU tier's storage: adapters are read from their files into host slots."""

import threading
from collections import Counter
from pathlib import Path

import torch

from lora_cli.adapter.adapter import Adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import Refused
from lora_cli.runtime.adapter_loader import load_into, shapes_of
from lora_cli.runtime.adapter_weights import LoraWeights, read_tensors, read_weights
from lora_cli.runtime.base_weights import BaseWeights
from lora_cli.runtime.composable import copied_modules, scalings
from lora_cli.runtime.lora_slots import Slots
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.variants import ExtraWeights, extra_weight_bytes, read_extra_weights


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


class HostWeights:
    """The CPU tier's storage: a slot of ``host_slots`` for each adapter's factors, and its extra weights next to it.

    Without a ``full_model`` to compose them onto, adapters with extra weights are refused. If the device is the CPU, a
    host slot can be a device slot as well: it is free when neither tier uses it.
    """

    def __init__(self, host_slots: Slots, base: BaseModel, *, full_model: bool) -> None:
        self.host_slots, self._base, self._full_model = host_slots, base, full_model
        self._extra: dict[int, dict[str, ExtraWeights]] = {}
        self._keepers: Counter[int] = Counter()
        self._lock = threading.Lock()

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
        place = load_into(self.host_slots, lora.directory, lora.adapter, scaling)
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
        return read_weights(lora.directory, lora.adapter, self.scalings(lora))
