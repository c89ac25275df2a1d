"""Factors that are read from the cache's packed weights where they are, and packed for the next time where not."""

from collections.abc import Mapping

import torch

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import Corrupt, MachineError
from lora_cli.runtime.weights import LoraWeights, read_weights
from lora_cli.store import Store
from lora_cli.store.packed import find_packed, packed_file, publish_packed


def read_packed(store: Store, digest: str, adapter: Adapter, scalings: Mapping[str, float]) -> LoraWeights | None:
    """The weights of that snapshot, in one read; None when they are not packed, or not as they were published.

    Raises:
        FormatError: as ``read_weights``.
    """
    wanted = [info for module in scalings for info in _pair(adapter, module)]
    placed = find_packed(store, digest, wanted)
    if placed is None:
        return None
    try:
        return read_weights(packed_file(store, digest).parent, adapter, scalings, placed)
    except (Corrupt, MachineError):  # somebody took it away meanwhile
        return None


def pack(store: Store, digest: str, adapter: Adapter, weights: LoraWeights, base: BaseModel) -> None:
    """Keeps ``weights`` packed, in the order of the base's layers; where the cache may not be written, nothing happens.

    They are the bytes of the snapshot: nothing is cast.
    """
    order = {module: place for place, module in enumerate(base.modules)}
    factors = []
    for module in sorted(weights.modules, key=lambda one: order.get(one, len(order))):
        held = weights.modules[module]
        for info, tensor in zip(_pair(adapter, module), (held.a, held.b), strict=True):
            factors.append((info, tensor.contiguous().view(-1).view(torch.uint8).numpy().data))
    publish_packed(store, digest, factors)


def _pair(adapter: Adapter, module: str) -> list[TensorInfo]:
    pair = adapter.pairs[module]
    return [info for info in (pair.a, pair.b) if info is not None]
