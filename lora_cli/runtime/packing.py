"""Factors packed in the cache, for the loads to come."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import save_file

from lora_cli.core.adapter import Adapter
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import Corrupt, MachineError
from lora_cli.reading.safetensors_writer import write_errors
from lora_cli.runtime.weights import LoraWeights, factors, read_weights
from lora_cli.store import Store
from lora_cli.store.packed import find_packed, packed_file, publish_packed


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
