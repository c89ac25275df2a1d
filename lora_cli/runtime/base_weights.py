"""The base's weights for the proof, one module at a time: the checkpoint's own, or synthetic ones of the same shape."""

import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from lora_cli.adapter.safetensors import TensorInfo, header_length, parse_header
from lora_cli.base.base_model import BaseModel
from lora_cli.base.checkpoint import INDEX_CAP, INDEX_FILE, WEIGHTS_FILE, has_weights, names_in_memory, weight_map
from lora_cli.errors import Corrupt, FormatError, MachineError, NotFound
from lora_cli.runtime.adapter_weights import DTYPES, read_tensors

DAMAGED = (
    "download the base again, or set --base to its config.json alone: adapters are then proved on synthetic weights"
)


class BaseWeights(Protocol):
    """Weights by module path. ``origin`` is ``"base"`` or ``"synthetic"``, as it is in a ``Proof``."""

    @property
    def origin(self) -> str:
        """The origin of the weights."""
        ...

    def weight(self, module: str) -> torch.Tensor:
        """``[d_out, d_in]``, for a Conv1D too; ``[vocabulary, width]`` for an embedding."""
        ...


class SyntheticWeights:
    """Seeded weights with standard deviation ``1/sqrt(d_in)``: an input of size 1 gives an output of size 1.

    That is the scale that initialisation aims at, and trained linear layers stay near it.
    """

    origin = "synthetic"

    def __init__(self, base: BaseModel, seed: int = 0) -> None:
        self._modules, self._seed = base.modules, seed

    def weight(self, module: str) -> torch.Tensor:
        """float32 weights that depend on the seed and the module's path only."""
        shape = self._modules[module]
        generator = torch.Generator().manual_seed(zlib.crc32(module.encode()) ^ self._seed)
        if shape.kind == "embedding":
            return torch.randn(shape.d_in, shape.d_out, generator=generator)
        return torch.randn(shape.d_out, shape.d_in, generator=generator) / math.sqrt(shape.d_in)


class CheckpointWeights:
    """A checkpoint's own weights, read from its safetensors files when they are asked for, one at a time.

    Raises:
        FormatError: it lacks one of ``modules``, or holds it quantised or in another shape.
        Corrupt: a file of it is damaged.
    """

    origin = "base"

    def __init__(self, directory: Path, base: BaseModel, modules: Iterable[str]) -> None:
        self._directory, self._base = directory, base
        self._tensors = _tensors(directory)
        self._names = names_in_memory(self._tensors)
        for module in modules:
            self._find(module)

    def weight(self, module: str) -> torch.Tensor:
        """In the checkpoint's dtype; a Conv1D's as a transposed view."""
        info = self._find(module)
        tensor = read_tensors(self._directory / info.file, [info])[info.name]
        return tensor.t() if self._base.modules[module].kind == "conv1d" else tensor

    def _find(self, module: str) -> TensorInfo:
        shape, weight, tied = self._base.modules[module], f"{module}.weight", self._base.tied_weights
        found = self._names.get(weight) or self._names.get(tied.get(weight, ""))
        if found is None:
            raise FormatError(f"the checkpoint has no {weight}", where=self._base.name)
        info = self._tensors[found]
        want = (shape.d_out, shape.d_in) if shape.kind == "linear" else (shape.d_in, shape.d_out)
        if info.dtype not in DTYPES or info.dtype.startswith("F8") or info.shape != want:
            raise FormatError(
                f"{info.name} is {info.dtype} {list(info.shape)}, not a plain weight of shape {list(want)}",
                where=info.file,
            )
        return info


def check_checkpoint(directory: Path) -> None:
    """Checks by their headers that all files of a base's weights are there and complete.

    Raises:
        NotFound: there are no safetensors weights.
        Corrupt: a file is damaged, or one that the index names is missing.
    """
    if not has_weights(directory):
        raise NotFound(
            f"{directory} has no {WEIGHTS_FILE} and no {INDEX_FILE}",
            hint="the whole model needs the base's weights as safetensors",
        )
    _tensors(directory)


def _index(directory: Path) -> Mapping[str, str]:
    """Tensor name → shard; empty if there is a single file, which transformers prefers, too."""
    path = directory / INDEX_FILE
    if (directory / WEIGHTS_FILE).is_file() or not path.is_file():
        return {}
    if path.stat().st_size > INDEX_CAP:
        raise FormatError("is too large for an index", where=str(path))
    shard_of = weight_map(path.read_bytes())
    if bad := [name for name in shard_of.values() if Path(name).name != name]:
        raise FormatError(f"names a file outside its folder: {bad[0]!r}", where=str(path))
    return shard_of


def _tensors(directory: Path) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint. If two have one name, the one in the index is used."""
    shard_of = _index(directory)
    tensors: dict[str, TensorInfo] = {}
    for file in sorted(set(shard_of.values())) or [WEIGHTS_FILE]:
        found = _header(directory / file)
        tensors |= {name: info for name, info in found.items() if shard_of.get(name, file) == file}
    return tensors


def _header(path: Path) -> Mapping[str, TensorInfo]:
    # Opening a FIFO would block.
    if path.exists() and not path.is_file():
        raise Corrupt(f"the base's checkpoint is damaged: {path}: is not a regular file", hint=DAMAGED)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = header_length(file.read(8), size, path.name)
            return parse_header(file.read(length), size, path.name).tensors
    except FormatError as error:
        raise Corrupt(f"the base's checkpoint is damaged: {path}: {error.reason}", hint=DAMAGED) from error
    except FileNotFoundError as error:
        raise Corrupt(f"the base's checkpoint is incomplete: there is no {path}", hint=DAMAGED) from error
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}") from error
