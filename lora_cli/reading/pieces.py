"""The values of tensors, piece by piece, as they lie in a file: in order, apart, or in bytes that others share."""

import math
from collections.abc import Iterable, Iterator

from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt
from lora_cli.reading.ranges import read_range
from lora_cli.sources import Source

PIECE = 1 << 18
"""Bytes that are handed out at once."""

GATHERED = 1 << 22
"""Bytes that are read at once where the elements of a tensor lie apart."""


def pieces(
    source: Source, revision: Revision, file: RemoteFile, tensors: list[TensorInfo]
) -> Iterator[tuple[TensorInfo, memoryview]]:
    """Every element of ``tensors``, which are in the order of their first bytes: whole ones, never an empty piece.

    A piece has at most ``PIECE`` bytes, or where the elements of a tensor lie apart at most ``GATHERED``.

    Where the strides of a tensor make it shorter than its shape (it repeats itself), each element comes once.

    Raises:
        Corrupt: the bytes end before the header says.
        LoraCliError: what the source raises.
    """
    for run in _runs(tensors):
        first = run[0]
        if _scattered(first):
            yield from ((first, piece) for piece in _gathered(source, revision, file, first))
            continue
        start, stop = first.start, run[-1].stop
        chunks = source.read(revision, file, start, stop) if stop > start else iter(())
        yield from split(run, chunks, file.path)


def _runs(tensors: list[TensorInfo]) -> Iterator[list[TensorInfo]]:
    """Tensors that lie one after the other without a gap are read together; one that is scattered, alone."""
    run: list[TensorInfo] = []
    for tensor in tensors:
        if run and (tensor.start != run[-1].stop or _scattered(tensor) or _scattered(run[-1])):
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


def _scattered(tensor: TensorInfo) -> bool:
    """Whether bytes that are not the tensor's own lie between its elements; their order does not matter here."""
    return bool(tensor.strides) and math.prod(tensor.shape) * _item(tensor) < tensor.nbytes


def _item(tensor: TensorInfo) -> int:
    """Bytes of one element, from its span."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    return tensor.nbytes // (1 + last)


def _gathered(source: Source, revision: Revision, file: RemoteFile, tensor: TensorInfo) -> Iterator[memoryview]:
    import numpy as np

    item = _item(tensor)
    parts = [(tensor.start, tensor.shape)]
    while parts:
        start, shape = parts.pop()
        reach = [(size - 1) * stride for size, stride in zip(shape, tensor.strides, strict=True)]
        nbytes = (1 + sum(reach)) * item
        if nbytes > GATHERED:
            # Halved where it reaches farthest.
            axis = reach.index(max(reach))
            half = shape[axis] // 2
            upper = (*shape[:axis], shape[axis] - half, *shape[axis + 1 :])
            parts.append((start + half * tensor.strides[axis] * item, upper))
            parts.append((start, (*shape[:axis], half, *shape[axis + 1 :])))
            continue
        raw = read_range(source, revision, file, start, start + nbytes)
        if len(raw) < nbytes:
            raise _ended(tensor, nbytes - len(raw), file.path)
        lanes = np.frombuffer(raw, dtype=f"V{item}")
        strides = [stride * item for stride in tensor.strides]
        yield memoryview(np.lib.stride_tricks.as_strided(lanes, shape, strides, writeable=False).tobytes())


def split(
    tensors: Iterable[TensorInfo], chunks: Iterator[bytes], where: str
) -> Iterator[tuple[TensorInfo, memoryview]]:
    """Cut a stream of bytes at the tensors' borders, and into pieces of ``PIECE`` bytes: whole lanes, never empty.

    ``tensors`` are in the order of their bytes and without gaps; the stream begins with the first.
    """
    here = memoryview(b"")
    for tensor in tensors:
        left = tensor.nbytes
        while left:
            wanted = min(left, PIECE)
            if len(here) < wanted:
                parts, have = [here], len(here)
                while have < wanted:
                    chunk = next(chunks, b"")
                    if not chunk:
                        raise _ended(tensor, left - have, where)
                    parts.append(memoryview(chunk))
                    have += len(chunk)
                here = parts[1] if not len(parts[0]) and len(parts) == 2 else memoryview(b"".join(parts))
            yield tensor, here[:wanted]
            here = here[wanted:]
            left -= wanted


def _ended(tensor: TensorInfo, missing: int, where: str) -> Corrupt:
    return Corrupt(
        f"{where}: the bytes end {missing} bytes before the end of {tensor.name}",
        hint="fetch it again; the file is shorter than its header says",
    )
