"""A torch file, read by ranges from wherever its source has it: the directory and the pickle, never a tensor."""

from collections.abc import Iterator
from contextlib import contextmanager

from lora_cli.core.frozen import dataclass
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
from lora_cli.read.headers import check_stand_in
from lora_cli.read.ranges import read_range
from lora_cli.sources import Source, is_near

MOST_PICKLE = 1 << 25
"""Bytes of one pickle: that of 36 864 tensors has 6 MiB."""

FIRST_PICKLE = 1 << 18
"""Bytes that are read first where nothing says how long a pickle is."""

HEAD = 1 << 12
"""Bytes of a file's beginning that are read to know it."""

APART = 1 << 16
"""Bytes between two entries up to which they are read together."""


TAR, TAR_AT = b"ustar", 257
"""How a tar file is known, and where."""


@dataclass(frozen=True, slots=True)
class _Ranges:
    """A file of ``size`` bytes, read by ranges; its ``head`` is here."""

    source: Source
    revision: Revision
    file: RemoteFile
    size: int
    head: bytes

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``."""
        if stop <= len(self.head):
            return self.head[start:stop]
        return read_range(self.source, self.revision, self.file, start, stop)


def read_pickled(source: Source, revision: Revision, file: RemoteFile) -> dict[str, TensorInfo]:
    """The tensors of pickled weights, by name, in the order of their bytes. Nothing is unpickled.

    Raises:
        UnsafePickle: the file holds something else than tensors.
        FormatError: it is malformed, something else was put in its place, or its ``defect``.
        LoraCliError: what the source raises.
    """
    with _opened(source, revision, file) as ranges:
        check_stand_in(ranges.head, file)
        return _zipped(ranges) if ranges.head.startswith(archive.MAGIC) else _legacy(ranges)


def examine(source: Source, revision: Revision, file: RemoteFile) -> None:
    """Read a pickle that lies beside the weights against all that a trainer writes; what cannot be one is let be.

    Raises: as ``read_pickled``.
    """
    with _opened(source, revision, file) as ranges:
        if not can_begin(ranges.head[:1]):
            return
        if ranges.head.startswith(archive.MAGIC):
            _value(ranges, _archive(ranges), TRAINER)
            return
        for data in _longer(ranges):
            try:
                _read_all(data, ranges.size)
            except Truncated:
                if len(data) == ranges.size:
                    raise
            else:
                return


@contextmanager
def _opened(source: Source, revision: Revision, file: RemoteFile) -> Iterator[_Ranges]:
    """The file by ranges; whatever is wrong with its format says in which file it is."""
    if file.defect:
        raise FormatError(file.defect, where=file.path)
    if file.size is None:
        raise FormatError("its origin does not say how long it is, so that it is not read by ranges", where=file.path)
    try:
        head = read_range(source, revision, file, 0, min(HEAD, file.size))
        yield _Ranges(source, revision, file, file.size, head)
    except FormatError as error:
        raise error.within(file.path) from error.__cause__


def _zipped(ranges: _Ranges) -> dict[str, TensorInfo]:
    directory = _archive(ranges)
    tensors = state_dict(_value(ranges, directory, WEIGHTS))
    starts = {key: _storage_start(ranges, directory, storage) for key, storage in storages_of(tensors).items()}
    return located(tensors, starts, ranges.file.path)


def _archive(ranges: _Ranges) -> Archive:
    size, file = ranges.size, ranges.file.path
    tail_at = max(0, size - archive.TAIL)
    tail = ranges.read(tail_at, size)
    start, stop = archive.directory_range(tail, size, file)
    rest = ranges.read(start, min(stop, tail_at)) if start < tail_at else b""
    return archive.parse_directory(rest + tail[max(0, start - tail_at) : max(0, stop - tail_at)], start, file)


def _value(ranges: _Ranges, directory: Archive, allowed: Allowed) -> Value:
    """What ``data.pkl`` describes."""
    entries = [directory.entries[name] for name in ("data.pkl", "byteorder") if name in directory.entries]
    if not entries or not entries[0].name.endswith("/data.pkl"):
        raise FormatError("the zip holds no data.pkl")
    data, *order = _contents(ranges, entries)
    if order and order[0] != b"little":
        raise FormatError("was written by a big-endian machine", hint=legacy.BIG_ENDIAN_HINT)
    value, stop = read_pickle(data, allowed)
    if stop != len(data):
        raise FormatError(f"data.pkl goes on for {len(data) - stop} bytes after its pickle has ended")
    return value


def _contents(ranges: _Ranges, entries: list[Entry]) -> list[bytes]:
    """The data of small entries, each found by its own header; those that lie side by side come in one range."""
    for entry in entries:
        if entry.stop - entry.at > MOST_PICKLE:
            raise FormatError(f"{entry.name} takes {entry.stop - entry.at} bytes, more than any weights need")
    start, stop = min(entry.at for entry in entries), max(entry.stop for entry in entries)
    if stop - start > sum(entry.stop - entry.at for entry in entries) + APART:
        return [_contents(ranges, [entry])[0] for entry in entries]
    window = ranges.read(start, stop)
    found = []
    for entry in entries:
        at = archive.data_start(window[entry.at - start : entry.stop - start], entry, ranges.file.path) - start
        found.append(window[at : at + entry.size])
    return found


def _storage_start(ranges: _Ranges, directory: Archive, storage: Storage) -> int:
    """Where a storage begins: by its entry's own header where the file is near, else as torch aligns it."""
    entry = directory.entries.get(f"data/{storage.key}")
    if entry is None:
        raise FormatError(f"lacks the storage {storage.key[:40]!a}")
    if entry.size != storage.numel * item_bytes(storage.dtype):
        raise FormatError(f"has {entry.size} bytes for {storage.numel} elements of storage {storage.key[:40]}")
    if not is_near(ranges.source, ranges.revision):
        return entry.start
    local = ranges.read(entry.at, entry.at + archive.LOCAL_BYTES + len(entry.name.encode()))
    return archive.data_start(local, entry, ranges.file.path)


def _legacy(ranges: _Ranges) -> dict[str, TensorInfo]:
    for data in _longer(ranges):
        try:
            if not legacy.is_legacy(data, WEIGHTS):
                raise FormatError("is a pickle, but not one that torch.save writes")
            found = legacy.read_legacy(data, WEIGHTS)
        except Truncated:
            if len(data) == ranges.size:
                raise
            continue
        tensors = state_dict(found.value)
        starts, stop = legacy.legacy_starts(found.keys, found.stop, storages_of(tensors))
        if stop != ranges.size:
            raise FormatError(f"its storages end at byte {stop}, the file at {ranges.size}")
        return located(tensors, starts, ranges.file.path)
    raise AssertionError("_longer() ends with the whole file or raises")


def _longer(ranges: _Ranges) -> Iterator[bytes]:
    """The beginning of a file, longer each time, to the whole of it.

    Raises:
        FormatError: more than a pickle may have was asked for, or it is a tar file.
    """
    data, stop = ranges.head, min(ranges.size, FIRST_PICKLE)
    if data[TAR_AT : TAR_AT + len(TAR)] == TAR:
        raise FormatError("is a tar file, which torch wrote before 0.2 and reads no more with weights_only")
    while True:
        data += ranges.read(len(data), stop)
        yield data
        if stop == ranges.size:
            return
        if stop >= MOST_PICKLE:
            raise FormatError(f"its pickle does not end within {MOST_PICKLE} bytes")
        stop = min(ranges.size, 4 * stop, MOST_PICKLE)


def _read_all(data: bytes, size: int) -> None:
    """A legacy torch file, or one pickle after the other, to the end of a file of ``size`` bytes."""
    if legacy.is_legacy(data, TRAINER):
        legacy.read_legacy(data, TRAINER)
        return
    at = 0
    while at < size:
        _, at = read_pickle(data, TRAINER, at)
