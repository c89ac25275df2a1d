"""An adapter's factors in memory: views into one buffer per file, in the file's own dtype."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_cli.core.adapter import Adapter
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import Corrupt, FormatError, MachineError

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""safetensors' names of the floating dtypes that a factor can have."""


@dataclass(frozen=True, slots=True)
class ModuleWeights:
    """One module's update ``scaling * b @ a``: ``a`` is ``[r, d_in]``, ``b`` is ``[d_out, r]``.

    For an embedding ``d_in`` is the vocabulary.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    embedding: bool = False

    @property
    def rank(self) -> int:
        """The rank that the tensors have."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """All factors of one adapter, by module path. ``size`` is their bytes together."""

    name: str
    modules: Mapping[str, ModuleWeights]
    size: int

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max((module.rank for module in self.modules.values()), default=0)


def read_weights(
    directory: Path, adapter: Adapter, scalings: Mapping[str, float], placed: Mapping[str, TensorInfo] | None = None
) -> LoraWeights:
    """Read the factors of the modules in ``scalings`` (module path to ``lora_alpha / r`` or as PEFT scales it).

    Every file is read once into one buffer; the tensors are views of it and share its memory. ``placed`` says where
    in ``directory`` each tensor is, by name, where that is not where the adapter's header has it.

    Raises:
        FormatError: a factor has a dtype that is not a floating one, or is missing.
        Corrupt: a file is shorter than its header says.
        MachineError: a file cannot be read.
    """
    infos = {module: factors(adapter, module) for module in scalings}
    by_file: dict[str, list[TensorInfo]] = {}
    for pair in infos.values():
        for info in pair:
            there = info if placed is None else placed[info.name]
            by_file.setdefault(there.file, []).append(there)
    tensors: dict[str, torch.Tensor] = {}
    for file, members in by_file.items():
        tensors.update(read_tensors(directory / file, members))
    modules = {
        module: ModuleWeights(tensors[a.name], tensors[b.name], scalings[module], adapter.pairs[module].embedding)
        for module, (a, b) in infos.items()
    }
    return LoraWeights(adapter.name, modules, sum(a.nbytes + b.nbytes for a, b in infos.values()))


def weight_bytes(adapter: Adapter) -> int:
    """What ``read_weights`` will take in memory, in bytes, from the header alone."""
    return sum(info.nbytes for pair in adapter.pairs.values() for info in (pair.a, pair.b) if info is not None)


def read_tensors(path: Path, infos: Iterable[TensorInfo]) -> dict[str, torch.Tensor]:
    """Tensors of one file by name, as views of one buffer that holds the bytes from the first to the last of them.

    Raises: as ``read_weights``.
    """
    members = list(infos)
    start = min(info.start for info in members)
    buffer = _read(path, start, max(info.stop for info in members))
    return {info.name: view(buffer[info.start - start : info.stop - start], info) for info in members}


def factors(adapter: Adapter, module: str) -> tuple[TensorInfo, TensorInfo]:
    """Where A and B of a module stand in the adapter's files. Raises ``FormatError`` when one of them is missing."""
    pair = adapter.pairs[module]
    if pair.a is None or pair.b is None:
        raise FormatError("has only one of its two factors", where=module)
    return pair.a, pair.b


def _read(path: Path, start: int, stop: int) -> torch.Tensor:
    """Bytes ``start`` to ``stop`` of a file, as a uint8 tensor ``[stop - start]``."""
    buffer = torch.empty(stop - start, dtype=torch.uint8)
    rest = buffer.numpy().data
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise Corrupt(f"{path.name} ends {len(rest)} bytes before its header says", hint="fetch it again")
                rest = rest[count:]
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}") from error
    return buffer


def view(raw: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """``raw`` (uint8) as the tensor that ``info`` describes; copied only where it is not aligned for its dtype."""
    dtype = DTYPES.get(info.dtype)
    if dtype is None:
        raise FormatError(f"has dtype {info.dtype}, which is no floating dtype", where=f"{info.file}: {info.name}")
    if raw.storage_offset() % dtype.itemsize:
        raw = raw.clone()
    elements = raw.view(dtype)
    return elements.as_strided(info.shape, info.strides) if info.strides else elements.view(info.shape)
