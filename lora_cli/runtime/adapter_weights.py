"""An adapter's factors in memory, in the file's own dtype."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.errors import Corrupt, FormatError, MachineError
from lora_cli.text import by_key

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
    """All factors of one adapter, by module path."""

    name: str
    modules: Mapping[str, ModuleWeights]


def read_weights(directory: Path, adapter: Adapter, scalings: Mapping[str, float]) -> LoraWeights:
    """Read the factors of the modules in ``scalings`` (module path to ``lora_alpha / r`` or as PEFT scales it).

    Raises:
        FormatError: a factor has a dtype that is not a floating one, or is missing.
        Corrupt: a file does not match its header when it was checked.
        MachineError: a file cannot be read.
    """
    infos = {module: factors(adapter, module) for module in scalings}
    tensors: dict[str, torch.Tensor] = {}
    for file, members in by_key((info.file, info) for pair in infos.values() for info in pair).items():
        tensors.update(read_tensors(directory / file, members))
    modules = {
        module: ModuleWeights(tensors[a.name], tensors[b.name], scalings[module], adapter.pairs[module].embedding)
        for module, (a, b) in infos.items()
    }
    return LoraWeights(adapter.name, modules)


def weight_bytes(adapter: Adapter) -> int:
    """The bytes of memory that ``read_weights`` will take, from the header alone."""
    return sum(info.nbytes for pair in adapter.pairs.values() for info in (pair.a, pair.b) if info is not None)


def read_tensors(path: Path, infos: Iterable[TensorInfo]) -> dict[str, torch.Tensor]:
    """Tensors of one file by name: of a safetensors file through its library, of a pickle as views of one buffer.

    Raises: as ``read_weights``.
    """
    if path.suffix != ".safetensors":
        return view_tensors(path, infos)
    try:
        return _read_safetensors(path, list(infos))
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror or error}") from error


def view_tensors(path: Path, infos: Iterable[TensorInfo]) -> dict[str, torch.Tensor]:
    """Tensors of one file by name, as views of one buffer. Other threads run meanwhile, however long the disk takes.

    Raises: as ``read_weights``.
    """
    infos = list(infos)
    start, stop = min(info.start for info in infos), max(info.stop for info in infos)
    try:
        buffer = torch.from_numpy(np.fromfile(path, np.uint8, stop - start, offset=start))
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror or error}") from error
    if missing := stop - start - len(buffer):
        raise Corrupt(f"{path.name} ends {missing} bytes before the end given in its header", hint="fetch it again")
    return {info.name: view(buffer[info.start - start : info.stop - start], info) for info in infos}


def factors(adapter: Adapter, module: str) -> tuple[TensorInfo, TensorInfo]:
    """A and B of a module in the adapter's files. Raises ``FormatError`` if one of them is missing."""
    pair = adapter.pairs[module]
    if pair.a is None or pair.b is None:
        raise FormatError("has only one of its two factors", where=module)
    return pair.a, pair.b


def _read_safetensors(path: Path, infos: Sequence[TensorInfo]) -> dict[str, torch.Tensor]:
    described = {info.name: (dtype_of(info), info.shape) for info in infos}
    try:
        # Read and not mapped: the process would end with a file that is cut while it is mapped.
        with safe_open(path, "pt", backend="pread") as file:
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in described}
    except SafetensorError as error:
        raise Corrupt(f"{path.name} does not match its header: {error}", hint="fetch it again") from error
    for name, tensor in tensors.items():
        if (tensor.dtype, tensor.shape) != described[name]:
            raise Corrupt(f"{path.name}: {name} does not match its header", hint="fetch it again")
    return tensors


def dtype_of(info: TensorInfo) -> torch.dtype:
    """The floating-point dtype of a tensor. Raises ``FormatError`` if it has another dtype."""
    dtype = DTYPES.get(info.dtype)
    if dtype is None:
        raise FormatError(
            f"has dtype {info.dtype}, which is not a floating-point dtype", where=f"{info.file}: {info.name}"
        )
    return dtype


def view(raw: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """``raw`` (uint8) as the tensor that ``info`` describes; copied only if it is not aligned for its dtype."""
    dtype = dtype_of(info)
    if raw.storage_offset() % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).view(info.shape)
