"""A base's weights where they are on this disk: every tensor by its header, and its elements as streams."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lora_cli.core.architectures.layouts import names_in_memory
from lora_cli.core.factors import MOST_ELEMENTS
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision
from lora_cli.core.tensor_info import DTYPE_BITS, TensorInfo
from lora_cli.errors import FormatError
from lora_cli.reading.base import read_checkpoint
from lora_cli.reading.factors import load_tensor
from lora_cli.reading.headers import read_header
from lora_cli.reading.tensor_values import Bits
from lora_cli.sources import Source
from lora_cli.sources.local import LocalSource

PIECE = 1 << 18
"""Elements that are read at once."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a base by the names that they have on disk, and where their bytes are."""

    source: Source
    revision: Revision
    tensors: Mapping[str, TensorInfo]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors: what is read of it is at most that."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def in_memory(self) -> dict[str, tuple[TensorInfo, ...]]:
        """What each parameter of the loaded model is made of: several tensors for experts that it fuses."""
        made_of = names_in_memory(self.tensors)
        return {name: tuple(self.tensors[one] for one in names) for name, names in made_of.items()}


def checkpoint_at(source: Source, revision: Revision) -> Checkpoint | None:
    """The checkpoint at ``revision``, by its headers; None where there is none as safetensors.

    Raises:
        FormatError: index or header is malformed, or a shard is missing.
        LoraCliError: what the source raises.
    """
    tensors = read_checkpoint(source, revision)
    return Checkpoint(source, revision, tensors) if tensors else None


def checkpoint_of(path: Path) -> Checkpoint | None:
    """The same of a folder of this machine, or of one safetensors file. Raises as ``checkpoint_at``."""
    source = LocalSource()
    if not path.is_file():
        return checkpoint_at(source, source.resolve(AdapterRef("file", str(path))))
    revision = source.resolve(AdapterRef("file", str(path.parent)))
    file = revision.file(path.name) if path.suffix == ".safetensors" else None
    return None if file is None else Checkpoint(source, revision, read_header(source, revision, file).tensors)


def slices(source: Source, revision: Revision, tensor: TensorInfo) -> Iterator[Bits]:
    """The elements of ``tensor`` in order, some at a time; of one whose elements lie apart, all.

    Raises:
        FormatError: they lie apart, and are too many.
        LoraCliError: what the source raises.
    """
    count, bits = math.prod(tensor.shape), DTYPE_BITS.get(tensor.dtype, 0)
    if tensor.strides or bits % 8:
        if count > MOST_ELEMENTS:
            raise FormatError(f"its elements lie apart, and are over {MOST_ELEMENTS}")
        flat = load_tensor(source, revision, tensor).reshape(-1)
        yield from (flat[start : start + PIECE] for start in range(0, count, PIECE))
        return
    for start in range(0, count, PIECE):
        part = min(PIECE, count - start)
        first = tensor.start + start * bits // 8
        piece = replace(tensor, shape=(part,), start=first, stop=first + part * bits // 8)
        yield load_tensor(source, revision, piece)
