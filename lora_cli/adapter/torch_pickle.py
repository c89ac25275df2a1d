"""Torch files, read by ranges: the zip directory and the pickle, never the tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from lora_cli.adapter import torch_archive
from lora_cli.adapter.byte_ranges import HEAD, RangeReader, check_stand_in, read_range
from lora_cli.adapter.pickle_allowlist import TRAINER, WEIGHTS, Allowed, Storage, Value, item_bytes
from lora_cli.adapter.pickle_files import is_tar
from lora_cli.adapter.pickle_machine import ReadBudget, Truncated, read_pickle
from lora_cli.adapter.safetensors import TensorInfo
from lora_cli.adapter.torch_archive import Entry, state_dict, storages_of, tensor_infos
from lora_cli.errors import FormatError, TooLarge
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.sources.files import Files

T = TypeVar("T")

MOST_PICKLE = 1 << 25
"""Bytes of one pickle: that of 36 864 tensors has 6 MiB."""

FIRST_PICKLE = 1 << 18
"""Bytes that are read first of a pickle of unknown length."""

APART = 1 << 16
"""Entries with at most so many bytes between them are read combined."""


def read_pickled(files: Files, file: RemoteFile) -> dict[str, TensorInfo]:
    """The tensors of pickled weights, by name, in the order of their bytes. Nothing is unpickled.

    Raises:
        UnsafePickle: the file contains more than tensors.
        FormatError: it is malformed, a placeholder, or has a ``defect``.
        LoraCliError: what the source raises.
    """
    with open_ranges(files, file, ReadBudget()) as ranges:
        check_stand_in(ranges.head, file)
        return _zip_tensors(ranges) if ranges.head.startswith(torch_archive.MAGIC) else _legacy_tensors(ranges)


def check_pickle(ranges: RangeReader) -> None:
    """Check that a pickle next to the weights has only what a trainer writes.

    Raises: as ``read_pickled``.
    """
    if ranges.head.startswith(torch_archive.MAGIC):
        _read_data_pickle(ranges, _read_directory(ranges), TRAINER)
    else:
        _read_until_complete(ranges, lambda data: _read_all(data, ranges.size, ranges.budget))


def check_first_pickle(ranges: RangeReader, start: int) -> None:
    """The same for one pickle at ``start``, whatever follows it."""
    _read_until_complete(ranges, lambda data: read_pickle(data, TRAINER, start, ranges.budget))


@contextmanager
def open_ranges(files: Files, file: RemoteFile, budget: ReadBudget) -> Iterator[RangeReader]:
    """The file by ranges; a ``FormatError`` inside gets the path of the file."""
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    if file.size is None:
        raise FormatError("its source does not report its size, so it cannot be read by ranges", where=file.path)
    try:
        head = read_range(files, file, 0, min(HEAD, file.size))
        fetch = partial(read_range, files, file)
        yield RangeReader(file.path, file.size, head, fetch, budget, files.on_disk)
    except FormatError as error:
        raise error.within(file.path) from error.__cause__


def _zip_tensors(ranges: RangeReader) -> dict[str, TensorInfo]:
    directory = _read_directory(ranges)
    tensors = state_dict(_read_data_pickle(ranges, directory, WEIGHTS))
    starts = {key: _storage_start(ranges, directory, storage) for key, storage in storages_of(tensors).items()}
    return tensor_infos(tensors, starts, ranges.path)


def _read_directory(ranges: RangeReader) -> Mapping[str, Entry]:
    size, file = ranges.size, ranges.path
    tail_at = max(0, size - torch_archive.TAIL)
    tail = ranges.read(tail_at, size)
    start, stop = torch_archive.directory_range(tail, size, file)
    rest = ranges.read(start, min(stop, tail_at)) if start < tail_at else b""
    return torch_archive.parse_directory(rest + tail[max(0, start - tail_at) : max(0, stop - tail_at)], start, file)


def _read_data_pickle(ranges: RangeReader, directory: Mapping[str, Entry], allowed: Allowed) -> Value:
    """What ``data.pkl`` describes."""
    entries = [directory[name] for name in ("data.pkl", "byteorder") if name in directory]
    if not entries or not entries[0].name.endswith("/data.pkl"):
        raise FormatError("the zip contains no data.pkl")
    data, *order = _read_entries(ranges, entries)
    if order and order[0] != b"little":
        raise FormatError("was written by a big-endian machine", hint=torch_archive.BIG_ENDIAN_HINT)
    value, stop = read_pickle(data, allowed, 0, ranges.budget)
    if stop != len(data):
        raise FormatError(f"data.pkl has {len(data) - stop} more bytes after the end of its pickle")
    return value


def _read_entries(ranges: RangeReader, entries: list[Entry]) -> list[bytes]:
    """The data of small entries, located by their local headers; neighbours are read in one range."""
    for entry in entries:
        if entry.stop - entry.at > MOST_PICKLE:
            raise FormatError(f"{entry.name} takes {entry.stop - entry.at} bytes, more than any weights need")
    start, stop = min(entry.at for entry in entries), max(entry.stop for entry in entries)
    if stop - start > sum(entry.stop - entry.at for entry in entries) + APART:
        return [_read_entries(ranges, [entry])[0] for entry in entries]
    window = ranges.read(start, stop)
    found = []
    for entry in entries:
        at = torch_archive.data_start(window[entry.at - start : entry.stop - start], entry, ranges.path) - start
        found.append(window[at : at + entry.size])
    return found


def _storage_start(ranges: RangeReader, directory: Mapping[str, Entry], storage: Storage) -> int:
    """The offset of a storage: by its local header if the file is near, else by torch's alignment."""
    entry = directory.get(f"data/{storage.key}")
    if entry is None:
        raise FormatError(f"has no storage {storage.key[:40]!a}")
    if entry.size != storage.numel * item_bytes(storage.dtype):
        raise FormatError(f"has {entry.size} bytes for {storage.numel} elements of storage {storage.key[:40]}")
    if not ranges.near:
        return entry.start
    local = ranges.read(entry.at, entry.at + torch_archive.LOCAL_BYTES + len(entry.name.encode()))
    return torch_archive.data_start(local, entry, ranges.path)


def _legacy_tensors(ranges: RangeReader) -> dict[str, TensorInfo]:
    def read(data: bytes) -> torch_archive.Legacy:
        found = torch_archive.read_legacy(data, WEIGHTS, ranges.budget)
        if found is None:
            raise FormatError("is a pickle, but not one written by torch.save")
        return found

    found = _read_until_complete(ranges, read)
    tensors = state_dict(found.value)
    starts, stop = torch_archive.legacy_starts(found.keys, found.stop, storages_of(tensors))
    if stop != ranges.size:
        raise FormatError(f"its storages end at byte {stop}, the file at {ranges.size}")
    return tensor_infos(tensors, starts, ranges.path)


def _read_until_complete(ranges: RangeReader, read: Callable[[bytes], T]) -> T:
    """The result of ``read`` for the start of a file, which grows while ``read`` raises ``Truncated``.

    Raises:
        FormatError: as ``read``; or the pickle exceeds the limit, or it is a tar file.
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
    """Reads a legacy torch file, or consecutive pickles, to the end of a file of ``size`` bytes."""
    if torch_archive.read_legacy(data, TRAINER, budget) is not None:
        return
    at = 0
    while at < size:
        _, at = read_pickle(data, TRAINER, at, budget)
