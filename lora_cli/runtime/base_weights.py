"""The base's weights for the proof, one module at a time: the checkpoint's own, or synthetic ones of the same shape."""

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from lora_cli.core.base_model import BaseModel, BaseModule
from lora_cli.core.safetensors import HEADER_CAP, TensorInfo, header_length, parse_header
from lora_cli.errors import Corrupt, FormatError, MachineError, NotFound
from lora_cli.runtime.weights import DTYPES, read_tensors

DAMAGED = "download the base again, or give --base its config.json alone: proofs then use synthetic weights"

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

RENAMES = (
    ("transformer.", ""),
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", ""),
)
"""Where a checkpoint's name differs from the module's: transformers maps one to the other when it loads."""


class BaseWeights(Protocol):
    """Weights by module path. ``origin`` is ``"base"`` or ``"synthetic"``, as it stands in a ``Proof``."""

    @property
    def origin(self) -> str:
        """Where they come from."""
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
        self._tensors = {info.name: info for file in _files(directory) for info in _header(directory / file).values()}
        for module in modules:
            _find(self._tensors, module, base)

    def weight(self, module: str) -> torch.Tensor:
        """In the checkpoint's dtype; a Conv1D's as a transposed view."""
        info = _find(self._tensors, module, self._base)
        tensor = read_tensors(self._directory / info.file, [info])[info.name]
        return tensor.t() if self._base.modules[module].kind == "conv1d" else tensor


def has_checkpoint(directory: Path) -> bool:
    """Whether a directory has a base's weights as safetensors."""
    return (directory / SINGLE).is_file() or (directory / INDEX).is_file()


def check_checkpoint(directory: Path) -> None:
    """Whether every file of a base's weights is there and whole, by their headers.

    Raises:
        NotFound: there are no safetensors weights.
        Corrupt: a file is damaged, or one that the index names is missing.
    """
    if not has_checkpoint(directory):
        raise NotFound(
            f"{directory} has no {SINGLE} and no {INDEX}",
            hint="the whole model needs the base's weights as safetensors",
        )
    for file in _files(directory):
        _header(directory / file)


def _files(directory: Path) -> list[str]:
    # Of the two, transformers too takes the single file.
    if (directory / SINGLE).is_file() or not (directory / INDEX).is_file():
        return [SINGLE]
    path = directory / INDEX
    try:
        if path.stat().st_size > HEADER_CAP:
            raise FormatError("is larger than any index", where=str(path))
        names = set(json.loads(path.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise FormatError("is not an index of safetensors files", where=str(path)) from error
    bad = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if bad:
        raise FormatError(f"names a file outside its folder: {bad[0]!r}", where=str(path))
    return sorted(names)


def _header(path: Path) -> Mapping[str, TensorInfo]:
    # A FIFO is not opened: that would wait for ever.
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


def _find(tensors: Mapping[str, TensorInfo], module: str, base: BaseModel) -> TensorInfo:
    shape = base.modules[module]
    info = next((tensors[name] for name in _names(module, base) if name in tensors), None)
    if info is None:
        raise FormatError(f"the checkpoint has no {module}.weight", where=base.name)
    want = (shape.d_out, shape.d_in) if shape.kind == "linear" else (shape.d_in, shape.d_out)
    if info.dtype not in DTYPES or info.dtype.startswith("F8") or info.shape != want:
        raise FormatError(
            f"{info.name} is {info.dtype} {list(info.shape)}, not a plain weight of shape {list(want)}", where=info.file
        )
    return info


def _names(module: str, base: BaseModel) -> Iterator[str]:
    """Names that a module's weight may have in a checkpoint, likeliest first."""
    own = f"{module}.weight"
    yield own
    for prefix, other in RENAMES:
        if own.startswith(prefix):
            yield other + own.removeprefix(prefix)
    if base.tied_embeddings and base.modules[module].kind == "linear":
        for path in _embeddings_like(base, base.modules[module]):
            yield from _names(path, base)


def _embeddings_like(base: BaseModel, head: BaseModule) -> Iterator[str]:
    """The embeddings that an output layer can be tied to: of the same vocabulary and width."""
    for path, module in base.modules.items():
        if module.kind == "embedding" and (module.d_in, module.d_out) == (head.d_out, head.d_in):
            yield path
