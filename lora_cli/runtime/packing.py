"""Factors packed in the cache as they will lie in a slot, for the loads to come."""

from collections.abc import Iterable, Iterator, Mapping

import torch

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import Corrupt, MachineError
from lora_cli.runtime.weights import LoraWeights, factors, read_weights
from lora_cli.store import Store
from lora_cli.store.packed import Factor, find_packed, packed_file, publish_packed


def packed_infos(
    store: Store, digest: str, adapter: Adapter, modules: Iterable[str]
) -> Mapping[str, TensorInfo] | None:
    """Where in the packed file of that snapshot each factor stands, by name; None when it is not packed."""
    return find_packed(store, digest, (one for module in modules for one in factors(adapter, module)))


def read_packed(store: Store, digest: str, adapter: Adapter, scalings: Mapping[str, float]) -> LoraWeights | None:
    """The weights of that snapshot, in one read; None when they are not packed, or not as they were published.

    Raises:
        FormatError: as ``read_weights``.
    """
    placed = packed_infos(store, digest, adapter, scalings)
    if placed is None:
        return None
    try:
        return read_weights(packed_file(store, digest).parent, adapter, scalings, placed)
    except (Corrupt, MachineError):  # somebody took it away meanwhile
        return None


def pack(store: Store, digest: str, adapter: Adapter, weights: LoraWeights, base: BaseModel) -> None:
    """Keeps ``weights`` packed, in the order of the base's layers; where the cache may not be written, nothing happens.

    They are the bytes of the snapshot; nothing is cast. What a pickle has in strides is not packed.
    """
    order = {module: place for place, module in enumerate(base.modules)}
    modules = sorted(weights.modules, key=lambda one: order.get(one, len(order)))
    if not any(info.strides for module in modules for info in factors(adapter, module)):
        publish_packed(store, digest, [factor for module in modules for factor in _pair(adapter, weights, module)])


def _pair(adapter: Adapter, weights: LoraWeights, module: str) -> Iterator[Factor]:
    held = weights.modules[module]
    a, b = factors(adapter, module)
    for info, tensor in ((a, held.a), (b, held.b)):
        yield Factor(info, tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
