"""A torch file, read by ranges from wherever its source has it: the directory and the pickle, never a tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

from lora_cli.core.pickles import archive, legacy
from lora_cli.core.pickles.allowed import TRAINER, WEIGHTS, Allowed
from lora_cli.core.pickles.archive import Archive, Entry
from lora_cli.core.pickles.dtypes import item_bytes
from lora_cli.core.pickles.opcodes import Truncated, can_begin
from lora_cli.core.pickles.reader import read_pickle
from lora_cli.core.pickles.state import located, state_dict, storages_of
from lora_cli.core.pickles.values import Storage, Value
from lora_cli.core.safetensors import TensorInfo
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import FormatError
from lora_cli.read.ranges import read_range
from lora_cli.sources import Source, is_near

MOST_PICKLE = 1 << 25
"""Bytes of one pickle: that of 36 864 tensors has 6 MiB."""

FIRST_PICKLE = 1 << 18
"""Bytes that are read first where nothing says how long a pickle is."""


TAR, TAR_AT = b"ustar", 257
"""How a tar file is known, and where."""


def read_pickled(source: Source, revision: Revision, file: RemoteFile) -> dict[str, TensorInfo]:
    """The tensors of pickled weights, by name, in the order of their bytes. Nothing is unpickled.

    Raises:
        UnsafePickle: the file holds something else than tensors.
        FormatError: it is malformed, or its ``defect``.
        LoraCliError: what the source raises.
    """
    with _in(file) as size:
        if _is_zip(source, revision, file):
            return _zipped(source, revision, file, size)
        return _legacy(source, revision, file, size)


def examine(source: Source, revision: Revision, file: RemoteFile) -> None:
    """Read a pickle that lies beside the weights against all that a trainer writes; what cannot be one is let be.

    Raises: as ``read_pickled``.
    """
    with _in(file) as size:
        if not can_begin(read_range(source, revision, file, 0, 1)):
            return
        if _is_zip(source, revision, file):
            _value(source, revision, file, _archive(source, revision, file, size), TRAINER)
            return
        for data in _longer(source, revision, file, size):
            try:
                _read_all(data, size)
            except Truncated:
                if len(data) == size:
                    raise
            else:
                return


@contextmanager
def _in(file: RemoteFile) -> Iterator[int]:
    """The file's size; whatever is wrong with its format says in which file it is."""
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    if file.size is None:
        raise FormatError(
            "its origin does not say how long it is, so that it cannot be read by ranges", where=file.path
        )
    try:
        yield file.size
    except FormatError as error:
        raise error.within(file.path) from error.__cause__


def _is_zip(source: Source, revision: Revision, file: RemoteFile) -> bool:
    return read_range(source, revision, file, 0, len(archive.MAGIC)) == archive.MAGIC


def _zipped(source: Source, revision: Revision, file: RemoteFile, size: int) -> dict[str, TensorInfo]:
    directory = _archive(source, revision, file, size)
    tensors = state_dict(_value(source, revision, file, directory, WEIGHTS))
    storages = storages_of(tensors)
    starts = {key: _storage_start(source, revision, file, directory, storages[key]) for key in storages}
    return located(tensors, starts, file.path)


def _archive(source: Source, revision: Revision, file: RemoteFile, size: int) -> Archive:
    tail_at = max(0, size - archive.TAIL)
    tail = read_range(source, revision, file, tail_at, size)
    start, stop = archive.directory_range(tail, size, file.path)
    rest = read_range(source, revision, file, start, min(stop, tail_at))
    directory = (rest + tail[max(0, start - tail_at) : stop - tail_at]) if stop > tail_at else rest
    return archive.parse_directory(directory, start, file.path)


def _value(source: Source, revision: Revision, file: RemoteFile, directory: Archive, allowed: Allowed) -> Value:
    """What ``data.pkl`` describes."""
    if "data.pkl" not in directory.entries:
        raise FormatError("the zip holds no data.pkl")
    if "byteorder" in directory.entries:
        _check_order(_entry_bytes(source, revision, file, directory.entries["byteorder"]))
    data = _entry_bytes(source, revision, file, directory.entries["data.pkl"])
    value, stop = read_pickle(data, allowed)
    if stop != len(data):
        raise FormatError(f"data.pkl goes on for {len(data) - stop} bytes after its pickle has ended")
    return value


def _check_order(order: bytes) -> None:
    if order != b"little":
        raise FormatError("was written by a big-endian machine", hint=legacy.BIG_ENDIAN_HINT)


def _entry_bytes(source: Source, revision: Revision, file: RemoteFile, entry: Entry) -> bytes:
    """A small entry, found by its own header, which has to be as the directory says."""
    if entry.stop - entry.at > MOST_PICKLE:
        raise FormatError(f"{entry.name} takes {entry.stop - entry.at} bytes, more than any weights need")
    data = read_range(source, revision, file, entry.at, entry.stop)
    start = archive.data_start(data, entry, file.path) - entry.at
    return data[start : start + entry.size]


def _storage_start(source: Source, revision: Revision, file: RemoteFile, directory: Archive, storage: Storage) -> int:
    """Where a storage begins: by its entry's own header where the file is near, else as torch aligns it."""
    entry = directory.entries.get(f"data/{storage.key}")
    if entry is None:
        raise FormatError(f"lacks the storage {storage.key[:40]!a}")
    if entry.size != storage.numel * item_bytes(storage.dtype):
        raise FormatError(f"has {entry.size} bytes for {storage.numel} elements of storage {storage.key[:40]}")
    if not is_near(source, revision):
        return entry.start
    local = read_range(source, revision, file, entry.at, entry.at + archive.LOCAL_BYTES + len(entry.name.encode()))
    return archive.data_start(local, entry, file.path)


def _legacy(source: Source, revision: Revision, file: RemoteFile, size: int) -> dict[str, TensorInfo]:
    for data in _longer(source, revision, file, size):
        try:
            if not legacy.is_legacy(data, WEIGHTS):
                raise FormatError("is a pickle, but not one that torch.save writes")
            found = legacy.read_legacy(data, WEIGHTS)
        except Truncated:
            if len(data) == size:
                raise
            continue
        tensors = state_dict(found.value)
        starts, stop = legacy.legacy_starts(found.keys, found.stop, storages_of(tensors))
        if stop != size:
            raise FormatError(f"its storages end at byte {stop}, the file at {size}")
        return located(tensors, starts, file.path)
    raise AssertionError("_longer() ends with the whole file or raises")


def _longer(source: Source, revision: Revision, file: RemoteFile, size: int) -> Iterator[bytes]:
    """The beginning of a file, longer each time, to the whole of it.

    Raises:
        FormatError: more than a pickle may have was asked for.
    """
    data, stop = b"", min(size, FIRST_PICKLE)
    while True:
        data += read_range(source, revision, file, len(data), stop)
        if data[TAR_AT : TAR_AT + len(TAR)] == TAR:
            raise FormatError("is a tar file, which torch wrote before 0.2 and reads no more with weights_only")
        yield data
        if stop == size:
            return
        if stop >= MOST_PICKLE:
            raise FormatError(f"its pickle does not end within {MOST_PICKLE} bytes")
        stop = min(size, 4 * stop, MOST_PICKLE)


def _read_all(data: bytes, size: int) -> None:
    """A legacy torch file, or one pickle after the other, to the end of a file of ``size`` bytes."""
    if legacy.is_legacy(data, TRAINER):
        legacy.read_legacy(data, TRAINER)
        return
    at = 0
    while at < size:
        _, at = read_pickle(data, TRAINER, at)
