"""A base model's weights on this disk: as streams, and which tensors of an adapter are copies of them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lora_cli.adapter.byte_ranges import read_header
from lora_cli.adapter.safetensors import DTYPE_BITS, TensorInfo
from lora_cli.adapter.values import Bits, decode, encode, load
from lora_cli.base.checkpoint import names_in_memory
from lora_cli.base.reading import read_checkpoint
from lora_cli.errors import FormatError
from lora_cli.sources.files import Files, files_at

ELEMENTS_PER_READ = 1 << 18
"""Elements that are read at once."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a base model by their names on disk, and the files that they are in.

    ``tied`` maps parameters that are not stored to those that they are tied to.
    """

    files: Files
    tensors: Mapping[str, TensorInfo]
    tied: Mapping[str, str] = field(default_factory=dict)

    def in_memory(self) -> dict[str, tuple[TensorInfo, ...]]:
        """Parameter of the loaded model → its tensors: several for fused experts."""
        names = names_in_memory(self.tensors)
        names = {**{name: names[other] for name, other in self.tied.items() if other in names}, **names}
        return {name: tuple(self.tensors[one] for one in made_of) for name, made_of in names.items()}


def checkpoint_at(files: Files) -> Checkpoint | None:
    """The checkpoint in ``files``, from its headers; None if there is no safetensors checkpoint.

    Raises:
        FormatError: index or header is malformed, or a shard is missing.
        LoraCliError: what the source raises.
    """
    tensors = read_checkpoint(files)
    return Checkpoint(files, tensors) if tensors else None


def local_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint of a local folder or safetensors file; raises as ``checkpoint_at``."""
    if not path.is_file():
        return checkpoint_at(files_at(path))
    files = files_at(path.parent)
    file = files.file(path.name) if path.suffix == ".safetensors" else None
    return None if file is None else Checkpoint(files, read_header(files, file).tensors)


def read_elements(files: Files, tensor: TensorInfo) -> Iterator[Bits]:
    """The elements of ``tensor`` in order, ``ELEMENTS_PER_READ`` at a time.

    Raises:
        FormatError: its elements do not fill whole bytes.
        LoraCliError: what the source raises.
    """
    count, bits = math.prod(tensor.shape), DTYPE_BITS.get(tensor.dtype, 0)
    for start in range(0, count, ELEMENTS_PER_READ):
        part = min(ELEMENTS_PER_READ, count - start)
        first = tensor.start + start * bits // 8
        piece = replace(tensor, shape=(part,), start=first, stop=first + part * bits // 8)
        yield load(files, piece)


def base_copies(files: Files, weights: Mapping[str, TensorInfo], base: Checkpoint) -> dict[str, bool]:
    """Tensor name → whether it equals the base's weight, for the adapter's ``weights`` by parameter of the base.

    PEFT saves whole embeddings that are targeted (``save_embedding_layers="auto"``), in the dtype that the model had in
    memory; a copy equals the base's weight in that dtype. Weights that the base does not have, or has quantised or in
    parts, are not compared and not in the result.

    Raises:
        LoraCliError: what the sources raise.
    """
    made_of = base.in_memory()
    found: dict[str, bool] = {}
    for path, tensor in weights.items():
        own = made_of.get(path, ())
        if len(own) == 1:
            try:
                found[tensor.name] = _is_copy(files, tensor, base, own[0])
            except FormatError:
                continue
    return found


def _is_copy(files: Files, tensor: TensorInfo, base: Checkpoint, own: TensorInfo) -> bool:
    if tensor.shape != own.shape:
        return False
    theirs = read_elements(base.files, own)
    for ours, one in zip(read_elements(files, tensor), theirs, strict=True):
        same = one if own.dtype == tensor.dtype else encode(decode(one, own.dtype), tensor.dtype)
        if not np.array_equal(ours, same):
            return False
    return True
