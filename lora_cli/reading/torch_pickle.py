"""A torch file, read by ranges from wherever its source has it: the directory and the pickle, never a tensor."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from lora_cli.core.pickles import torch_archive
from lora_cli.core.pickles.allowlist import TRAINER, WEIGHTS, Allowed, Storage, Value, item_bytes
from lora_cli.core.pickles.machine import ReadBudget, Truncated, read_pickle
from lora_cli.core.pickles.torch_archive import Entry, Legacy, state_dict, storages_of, tensor_infos
from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError, TooLarge
from lora_cli.reading.byte_ranges import HEAD, Readable, check_stand_in, read_range
from lora_cli.reading.pickle_files import is_tar
from lora_cli.sources import Source, is_on_disk

T = TypeVar("T")

MOST_PICKLE = 1 << 25
"""Bytes of one pickle: that of 36 864 tensors has 6 MiB."""

FIRST_PICKLE = 1 << 18
"""Bytes that are read first where nothing says how long a pickle is."""

APART = 1 << 16
"""Bytes between two entries up to which they are read together."""


def read_pickled(source: Source, revision: Revision, file: RemoteFile) -> dict[str, TensorInfo]:
    """The tensors of pickled weights, by name, in the order of their bytes. Nothing is unpickled.

    Raises:
        UnsafePickle: the file holds something else than tensors.
        FormatError: it is malformed, something else was put in its place, or its ``defect``.
        LoraCliError: what the source raises.
    """
    with opened(source, revision, file, ReadBudget()) as ranges:
        check_stand_in(ranges.head, file)
        return _zipped(ranges) if ranges.head.startswith(torch_archive.MAGIC) else _legacy(ranges)


def examine(ranges: Readable) -> None:
    """Read a pickle that is next to the weights against all that a trainer writes.

    Raises: as ``read_pickled``.
    """
    if ranges.head.startswith(torch_archive.MAGIC):
        _value(ranges, _archive(ranges), TRAINER)
    else:
        _of_enough(ranges, lambda data: _read_all(data, ranges.size, ranges.budget))


def examine_first(ranges: Readable, start: int) -> None:
    """The same of one pickle that begins at ``start``, whatever follows it."""
    _of_enough(ranges, lambda data: read_pickle(data, TRAINER, start, ranges.budget))


@contextmanager
def opened(source: Source, revision: Revision, file: RemoteFile, budget: ReadBudget) -> Iterator[Readable]:
    """The file by ranges; whatever is wrong with its format says in which file it is."""
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    if file.size is None:
        raise FormatError("its source does not report its size, so it cannot be read by ranges", where=file.path)
    try:
        head = read_range(source, revision, file, 0, min(HEAD, file.size))
        fetch = partial(read_range, source, revision, file)
        yield Readable(file.path, file.size, head, fetch, budget, is_on_disk(source, revision))
    except FormatError as error:
        raise error.within(file.path) from error.__cause__


def _zipped(ranges: Readable) -> dict[str, TensorInfo]:
    directory = _archive(ranges)
    tensors = state_dict(_value(ranges, directory, WEIGHTS))
    starts = {key: _storage_start(ranges, directory, storage) for key, storage in storages_of(tensors).items()}
    return tensor_infos(tensors, starts, ranges.path)


def _archive(ranges: Readable) -> Mapping[str, Entry]:
    size, file = ranges.size, ranges.path
    tail_at = max(0, size - torch_archive.TAIL)
    tail = ranges.read(tail_at, size)
    start, stop = torch_archive.directory_range(tail, size, file)
    rest = ranges.read(start, min(stop, tail_at)) if start < tail_at else b""
    return torch_archive.parse_directory(rest + tail[max(0, start - tail_at) : max(0, stop - tail_at)], start, file)


def _value(ranges: Readable, directory: Mapping[str, Entry], allowed: Allowed) -> Value:
    """What ``data.pkl`` describes."""
    entries = [directory[name] for name in ("data.pkl", "byteorder") if name in directory]
    if not entries or not entries[0].name.endswith("/data.pkl"):
        raise FormatError("the zip contains no data.pkl")
    data, *order = _contents(ranges, entries)
    if order and order[0] != b"little":
        raise FormatError("was written by a big-endian machine", hint=torch_archive.BIG_ENDIAN_HINT)
    value, stop = read_pickle(data, allowed, 0, ranges.budget)
    if stop != len(data):
        raise FormatError(f"data.pkl has {len(data) - stop} more bytes after the end of its pickle")
    return value


def _contents(ranges: Readable, entries: list[Entry]) -> list[bytes]:
    """The data of small entries, each found by its own header; those that are side by side come in one range."""
    for entry in entries:
        if entry.stop - entry.at > MOST_PICKLE:
            raise FormatError(f"{entry.name} takes {entry.stop - entry.at} bytes, more than any weights need")
    start, stop = min(entry.at for entry in entries), max(entry.stop for entry in entries)
    if stop - start > sum(entry.stop - entry.at for entry in entries) + APART:
        return [_contents(ranges, [entry])[0] for entry in entries]
    window = ranges.read(start, stop)
    found = []
    for entry in entries:
        at = torch_archive.data_start(window[entry.at - start : entry.stop - start], entry, ranges.path) - start
        found.append(window[at : at + entry.size])
    return found


def _storage_start(ranges: Readable, directory: Mapping[str, Entry], storage: Storage) -> int:
    """Where a storage begins: by its entry's own header where the file is near, else as torch aligns it."""
    entry = directory.get(f"data/{storage.key}")
    if entry is None:
        raise FormatError(f"has no storage {storage.key[:40]!a}")
    if entry.size != storage.numel * item_bytes(storage.dtype):
        raise FormatError(f"has {entry.size} bytes for {storage.numel} elements of storage {storage.key[:40]}")
    if not ranges.near:
        return entry.start
    local = ranges.read(entry.at, entry.at + torch_archive.LOCAL_BYTES + len(entry.name.encode()))
    return torch_archive.data_start(local, entry, ranges.path)


def _legacy(ranges: Readable) -> dict[str, TensorInfo]:
    def read(data: bytes) -> Legacy:
        found = torch_archive.read_legacy(data, WEIGHTS, ranges.budget)
        if found is None:
            raise FormatError("is a pickle, but not one written by torch.save")
        return found

    found = _of_enough(ranges, read)
    tensors = state_dict(found.value)
    starts, stop = torch_archive.legacy_starts(found.keys, found.stop, storages_of(tensors))
    if stop != ranges.size:
        raise FormatError(f"its storages end at byte {stop}, the file at {ranges.size}")
    return tensor_infos(tensors, starts, ranges.path)


def _of_enough(ranges: Readable, read: Callable[[bytes], T]) -> T:
    """What ``read`` gives of the beginning of a file: of a longer one where it is truncated, to the whole of it.

    Raises:
        FormatError: as ``read``; more than a pickle may have is asked for, or it is a tar file.
    """
    data, stop = ranges.head, min(ranges.size, FIRST_PICKLE)
    if is_tar(data):
        raise FormatError("is a tar file, which torch wrote before 0.2 and no longer reads with weights_only")
    while True:
        data += ranges.read(len(data), stop)
        try:
            return read(data)
        except Truncated:
            if stop == ranges.size:
                raise
        if stop >= MOST_PICKLE:
            raise TooLarge(f"its pickle does not end within {MOST_PICKLE} bytes")
        stop = min(ranges.size, 4 * stop, MOST_PICKLE)


def _read_all(data: bytes, size: int, budget: ReadBudget) -> None:
    """A legacy torch file, or one pickle after the other, to the end of a file of ``size`` bytes."""
    if torch_archive.read_legacy(data, TRAINER, budget) is not None:
        return
    at = 0
    while at < size:
        _, at = read_pickle(data, TRAINER, at, budget)
