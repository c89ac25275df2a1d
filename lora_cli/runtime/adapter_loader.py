"""Reads an adapter's factors from its files directly into a slot in memory.

A factor with the same layout in its file as in the slot is read into place: one ``preadv`` scatters hundreds of them.
A factor that must be cast, is in a pickle, or has wider rows in the slot (B of a rank below its slot's) is read into a
small buffer and copied from there while it is in the processor's cache. Nothing else is allocated. Two threads read the
halves of a large file.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lora_cli.core.adapter import Adapter
from lora_cli.core.safetensors import TensorInfo
from lora_cli.errors import Corrupt, MachineError, Refused
from lora_cli.runtime.adapter_weights import DTYPES, factors, view
from lora_cli.runtime.lora_slots import Shape, Slots

READERS = 2
WORTH_A_READER = 1 << 22
"""The least bytes of a file for a second reader to be worth its start."""

AT_ONCE = 1 << 21
"""Bytes of one read, unless a factor is larger: they fit in the processor's cache."""

IOV_MAX = os.sysconf("SC_IOV_MAX")
"""The most views that one call fills."""

SKIPPED = 4096
"""A gap of at most so many bytes between two factors is read too, instead of starting another read."""

Bits = np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]]
INTEGERS, SIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}, {2: np.int16, 4: np.int32, 8: np.int64}
EXPONENTS = {
    torch.float16: 0x7C00,
    torch.bfloat16: 0x7F80,
    torch.float32: 0x7F80_0000,
    torch.float64: 0x7FF0_0000_0000_0000,
}
"""The bits of the exponent, by dtype of the slots."""

largest = partial(np.maximum.reduce, initial=0)
"""The maximum of an array, or 0; faster than ``max``, which has Python overhead."""


class Part(NamedTuple):
    """One factor in its file, and its place in the storage: ``[rows, width]`` from element ``offset`` on.

    ``step`` is the number of elements from one row to the next.
    """

    info: TensorInfo
    offset: int
    rows: int
    width: int
    step: int


def shapes_of(adapter: Adapter, modules: Iterable[str]) -> dict[str, Shape]:
    """The shape of each of ``modules`` in a slot, by the adapter's header. Raises ``FormatError`` as ``load_into``."""
    pairs = {module: factors(adapter, module) for module in modules}
    return {
        module: Shape(a.shape[0], a.shape[1], b.shape[0], adapter.pairs[module].embedding)
        for module, (a, b) in pairs.items()
    }


def load_into(
    slots: Slots,
    directory: Path,
    adapter: Adapter,
    scalings: Mapping[str, float],
    packed: Mapping[str, TensorInfo] | None = None,
) -> int:
    """Loads the modules in ``scalings`` into a free slot of ``slots``, which are in memory, and returns its number.

    ``packed`` says where in ``directory`` each factor is, by name, when that is the packed file.

    Raises:
        Refused: a factor holds NaN or Inf; or as ``Slots.reserve`` says, before anything is read.
        FormatError: a factor has a dtype that is not a floating one, or is missing.
        Corrupt: a file is shorter than its header says.
        MachineError: a file cannot be read, or no slot is free.
    """
    shapes = shapes_of(adapter, scalings)
    slot = slots.reserve(adapter.name, shapes)
    try:
        by_file: dict[str, list[Part]] = {}
        rank_class = slots.rank_class(slot)
        for module, shape in shapes.items():
            a, b = factors(adapter, module)
            pair = (a, b) if packed is None else (packed[a.name], packed[b.name])
            for part in _parts(pair, shape, slots.offsets(slot, module), rank_class):
                by_file.setdefault(part.info.file, []).append(part)
        for file, parts in by_file.items():
            _read_file(directory / file, parts, slots.storage, adapter.name)
        slots.scale(slot, scalings)
    except BaseException:
        slots.clear(slot)
        raise
    return slot


def _parts(
    pair: tuple[TensorInfo, TensorInfo], shape: Shape, offsets: tuple[int, int], rank_class: int
) -> tuple[Part, Part]:
    (a, b), (rank, d_in, d_out, _) = pair, shape
    return Part(a, offsets[0], rank, d_in, d_in), Part(b, offsets[1], d_out, rank, rank_class)


def _read_file(path: Path, parts: list[Part], storage: torch.Tensor, name: str) -> None:
    """Reads ``parts`` of one file into place, in the file's order; a large file in two halves at once."""
    parts.sort(key=lambda part: part.info.start)
    halves, end = _halves(parts), parts[-1].info.stop
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            readers = [Reader(descriptor, path.name, end, storage, name) for _ in halves]
            if len(halves) == 1:
                readers[0].read(parts)
            else:
                with ThreadPoolExecutor(READERS - 1) as threads:
                    others = threads.map(Reader.read, readers[1:], halves[1:])
                    readers[0].read(halves[0])
                    list(others)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}") from error


def _halves(parts: Sequence[Part]) -> list[Sequence[Part]]:
    begin, end = parts[0].info.start, parts[-1].info.stop
    readers = max(1, min(READERS, (end - begin) // WORTH_A_READER))
    bounds = [begin + (end - begin) * number // readers for number in range(1, readers)]
    cuts = [sum(part.info.start < bound for part in parts) for bound in bounds]
    return [parts[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(parts)], strict=True)]


class Reader:
    """Reads parts of an open file in order. It holds the views of the next read, and the parts that it completes."""

    def __init__(self, descriptor: int, file: str, file_end: int, storage: torch.Tensor, name: str) -> None:
        self._descriptor, self._file, self._file_end, self._name = descriptor, file, file_end, name
        self._dtype, self._bits = storage.dtype, _bits(storage)
        self._bytes = self._bits.view(np.uint8).data
        self._largest = EXPONENTS[storage.dtype], EXPONENTS[storage.dtype] + (1 << 8 * storage.dtype.itemsize - 1)
        self._skipped = memoryview(bytearray(SKIPPED))
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._begin = self._end = self._staged = self._size = 0
        self._views: list[memoryview] = []
        self._parts_read: list[tuple[Part, torch.Tensor | None]] = []

    def read(self, parts: Iterable[Part]) -> None:
        """Reads them into place."""
        dtype = self._dtype
        for part in parts:
            straight = part.width == part.step and not part.info.strides and DTYPES.get(part.info.dtype) is dtype
            self._prepare(part.info.start, part.info.nbytes, staged=not straight)
            raw = None
            if straight:
                start = part.offset * dtype.itemsize
                self._views.append(self._bytes[start : start + part.info.nbytes])
            else:
                raw = self._buffer[self._staged : self._staged + part.info.nbytes]
                self._staged += -(-part.info.nbytes // 8) * 8
                self._views.append(raw.numpy().data)
            self._parts_read.append((part, raw))
            self._size += part.info.nbytes
            self._end = part.info.stop
        self._flush()

    def _prepare(self, start: int, size: int, *, staged: bool) -> None:
        """Prepares the next view, at ``start`` in the file; if ``staged``, with ``size`` bytes of the buffer."""
        gap = start - self._end
        full = len(self._views) + 2 > IOV_MAX or self._size + size > AT_ONCE
        if full or not 0 <= gap <= SKIPPED or not self._views:
            self._flush()
            self._begin = self._end = start
        elif gap:
            self._views.append(self._skipped[:gap])
        if staged and size > len(self._buffer) - self._staged:
            self._buffer = torch.empty(max(AT_ONCE, size), dtype=torch.uint8)

    def _flush(self) -> None:
        """Fills the views, copies what is in the buffer into place, and checks all of it for NaN and Inf."""
        views, at = self._views, self._begin
        while views:
            count = os.preadv(self._descriptor, views, at)
            if not count:
                short = self._file_end - at
                raise Corrupt(
                    f"{self._file} ends {short} bytes before the end given in its header", hint="fetch it again"
                )
            at += count
            views = _after(views, count)
        for part, raw in self._parts_read:
            there = self._bits[part.offset : part.offset + part.rows * part.step]
            if raw is None:
                self.refuse_not_finite(part, there)
            else:
                bits = _bits(view(raw, part.info).to(self._dtype).contiguous().view(-1))
                self.refuse_not_finite(part, bits)
                there.reshape(part.rows, part.step)[:, : part.width] = bits.reshape(part.rows, part.width)
        self._views, self._parts_read, self._staged, self._size = [], [], 0, 0

    def refuse_not_finite(self, part: Part, bits: Bits) -> None:
        """Raises ``Refused`` for NaN or Inf. As integers these are larger than all other numbers of their sign.

        So two maxima find them, twice as fast as torch's aminmax, and without other threads.
        """
        positive, negative = self._largest
        if largest(bits.view(SIGNED[bits.itemsize])) >= positive or largest(bits) >= negative:
            raise Refused(
                f"{self._name}: {part.info.name} contains NaN or Inf in {str(self._dtype).removeprefix('torch.')}",
                hint="its training diverged, or its values are too large for that dtype",
            )


def _after(views: Sequence[memoryview], count: int) -> list[memoryview]:
    """The parts of ``views`` after their first ``count`` bytes."""
    for number, one in enumerate(views):
        if count < len(one):
            return [one[count:], *views[number + 1 :]]
        count -= len(one)
    return []


def _bits(flat: torch.Tensor) -> Bits:
    """The bits of a tensor as integers, since numpy has no bfloat16."""
    return flat.view(torch.uint8).numpy().view(INTEGERS[flat.itemsize])
