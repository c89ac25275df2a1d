"""Where a torch file has its pickle and its tensors' bytes: the zip form, and the one before it.

The zip form: PKWARE's APPNOTE 6.3, sections 4.3.7 (local header), 4.3.9 (data descriptor), 4.3.12 (central directory),
4.3.14 and 4.3.15 (zip64), 4.3.16 (end record). Readers differ on what is ambiguous in it: torch, Python and we must
see the same entries, so that only the plain form is read: stored entries, each named once, one after the other, and
the directory right before the end.

The legacy form (``torch/serialization.py``, ``_legacy_save``): five pickles (magic number, protocol version, system,
the object, the list of storage keys), then for each key, in that order, 8 bytes with its number of elements and the
elements themselves.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from lora_cli.adapter.pickle_allowlist import Allowed, Items, Storage, TorchTensor, Value, describe, item_bytes, span
from lora_cli.adapter.pickle_machine import ReadBudget, read_pickle
from lora_cli.adapter.safetensors import LONGEST_NAME, MOST_TENSORS, TensorInfo
from lora_cli.errors import FormatError, TooLarge

MAGIC = b"PK\x03\x04"
TAIL = 1 << 16
"""Bytes of a file's end that are read first: the whole directory of nearly every adapter."""

MOST_BYTES = 1 << 25
"""Bytes of a directory: that of 100 000 tensors has 8 MiB."""

MOST_ENTRIES = 200_000
"""Entries of a directory: one for each storage, and a few more."""

ALIGNMENT = 64
"""Bytes to which torch aligns an entry's data."""

_END = struct.Struct("<4s4H2IH")
_END64_AT = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
LOCAL_BYTES = _LOCAL.size
_FULL, _FULL64 = 0xFFFF, 0xFFFF_FFFF

_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_NAME = re.compile(r"([^/\\\x00]+)/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment|"
                   r"\.data/serialization_id|data/[0-9]+)")  # fmt: skip
_TORCHSCRIPT = ("constants.pkl", "code/")


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored entry of ``size`` bytes: its local header begins at ``at``, and what follows it at ``stop``."""

    name: str
    at: int
    stop: int
    size: int
    descriptor: bool

    @property
    def start(self) -> int:
        """Where its data begins, as torch aligns it; ``data_start`` reads it from the local header itself."""
        for descriptor in (0, 16, 24, 12, 20):
            start = self.stop - self.size - descriptor
            if start % ALIGNMENT == 0 and bool(descriptor) == self.descriptor:
                return start
        return self.stop - self.size


def directory_range(tail: bytes, size: int, file: str) -> tuple[int, int]:
    """Where the directory of a file of ``size`` bytes is, from its last bytes.

    Raises:
        FormatError: the file does not end as torch ends one.
    """
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise FormatError("truncated, or not a torch file: it does not end with a zip directory", where=file)
    _, disk, first_disk, here, count, length, start, comment = _END.unpack(tail[-_END.size :])
    end = size - _END.size
    wanted64 = _FULL in {disk, first_disk, here, count} or _FULL64 in {length, start}
    has64 = len(tail) >= _END.size + _END64_AT.size and tail[-_END.size - _END64_AT.size :][:4] == b"PK\x06\x07"
    if wanted64 and not has64:
        raise FormatError("the zip directory is not at the offset in its end record", where=file)
    if has64:
        length, start, end = _end64(tail, size, file)
    if comment or disk or first_disk or (not has64 and here != count):
        raise FormatError("the zip's end record is not as torch writes it", where=file)
    if start + length != end:
        raise FormatError("the zip directory does not end at the start of the end record", where=file)
    if length > MOST_BYTES:
        raise TooLarge(f"the zip directory has {length} bytes, more than any weights need", where=file)
    return start, start + length


def _end64(tail: bytes, size: int, file: str) -> tuple[int, int, int]:
    """Length and start of the directory, and where it must end, from the zip64 records."""
    locator_at = len(tail) - _END.size - _END64_AT.size
    record_at = locator_at - _END64.size
    if record_at < 0:
        raise FormatError("the zip64 end record is missing", where=file)
    _, disk, at, disks = _END64_AT.unpack_from(tail, locator_at)
    signature, _, _, _, number, first, here, count, length, start = _END64.unpack_from(tail, record_at)
    if signature != b"PK\x06\x06" or at != size - len(tail) + record_at or disk or disks != 1 or number or first:
        raise FormatError("the zip64 end record is not as torch writes it", where=file)
    if here != count:
        raise FormatError("the zip64 end record has two different entry counts", where=file)
    return length, start, at


def parse_directory(directory: bytes, start: int, file: str) -> dict[str, Entry]:
    """The entries that a directory lists, which begins at byte ``start`` of the file.

    Raises:
        FormatError: an entry is compressed, encrypted, named twice, overlaps another, or is not one that torch writes.
    """
    found: list[tuple[str, int, int, bool]] = []
    at = 0
    while at < len(directory):
        name, header, size, descriptor, at = _central(directory, at, file)
        found.append((name, header, size, descriptor))
        if len(found) > MOST_ENTRIES:
            raise TooLarge(f"the zip directory has over {MOST_ENTRIES} entries, more than any weights need", where=file)
    found.sort(key=lambda entry: entry[1])
    entries: dict[str, Entry] = {}
    folders = set()
    for i, (name, header, size, descriptor) in enumerate(found):
        stop = found[i + 1][1] if i + 1 < len(found) else start
        if header + LOCAL_BYTES + len(name.encode()) + size > stop:
            raise FormatError("overlaps what follows it", where=f"{file}: {name[:200]}")
        folder, inner = _torch_name(name, file)
        folders.add(folder)
        if inner in entries:
            raise FormatError("appears twice in the zip directory", where=f"{file}: {name[:200]}")
        entries[inner] = Entry(name, header, stop, size, descriptor)
    if len(folders) != 1 or found[0][1] != 0:
        raise FormatError("the zip does not contain exactly one torch file", where=file)
    return entries


def _central(directory: bytes, at: int, file: str) -> tuple[str, int, int, bool, int]:
    """Name, local header, size and data descriptor of the entry at ``at``, and where the next one begins."""
    if at + _CENTRAL.size > len(directory):
        raise FormatError("the zip directory is truncated", where=file)
    fields = _CENTRAL.unpack_from(directory, at)
    signature, flags, method, packed, size = fields[0], fields[3], fields[4], fields[8], fields[9]
    name_bytes, extra_bytes, comment_bytes, disk, header = fields[10], fields[11], fields[12], fields[13], fields[16]
    end = at + _CENTRAL.size + name_bytes + extra_bytes + comment_bytes
    if signature != b"PK\x01\x02" or end > len(directory):
        raise FormatError("the zip directory is malformed", where=file)
    raw = directory[at + _CENTRAL.size : at + _CENTRAL.size + name_bytes]
    extra = directory[at + _CENTRAL.size + name_bytes : end]
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("a name in the zip directory is not UTF-8", where=file) from error
    where = f"{file}: {name[:200] if name.isprintable() else ascii(name[:200])}"
    if _FULL64 in {packed, size, header}:
        size, packed, header = _zip64(extra, size, packed, header, where)
    if method or packed != size:
        raise FormatError("is compressed; torch stores its entries as they are", where=where)
    if flags & _ENCRYPTED or comment_bytes or disk:
        raise FormatError("is not as torch writes an entry (encrypted, commented or on another disk)", where=where)
    return name, header, size, bool(flags & _DESCRIPTOR), end


def _zip64(extra: bytes, size: int, packed: int, header: int, where: str) -> tuple[int, int, int]:
    """Size, packed size and offset, those that did not fit 32 bits from the zip64 field of ``extra``."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            needed = [value == _FULL64 for value in (size, packed, header)]
            if length < 8 * sum(needed) or at + 4 + length > len(extra):
                break
            numbers = iter(struct.unpack_from(f"<{sum(needed)}Q", extra, at + 4))
            full = [
                next(numbers) if need else value for need, value in zip(needed, (size, packed, header), strict=True)
            ]
            return full[0], full[1], full[2]
        at += 4 + int(length)
    raise FormatError("lacks its zip64 sizes", where=where)


def _torch_name(name: str, file: str) -> tuple[str, str]:
    found = _NAME.fullmatch(name)
    if found:
        return found[1], found[2]
    inner = name.partition("/")[2]
    if inner.startswith(_TORCHSCRIPT):
        raise FormatError("is a TorchScript program, which runs when it is loaded", where=file)
    raise FormatError(f"holds {name[:100]!a}, which torch.save does not write", where=file)


def data_start(local: bytes, entry: Entry, file: str) -> int:
    """Where the data of ``entry`` begins, from its local header: the first ``LOCAL_BYTES`` and its name.

    Raises:
        FormatError: the local header is not that of the entry which the directory lists.
    """
    where = f"{file}: {entry.name[:200]}"
    raw = entry.name.encode()
    if len(local) < LOCAL_BYTES + len(raw):
        raise FormatError("its local header is truncated", where=where)
    signature, _, flags, method, _, _, _, packed, size, name_bytes, extra_bytes = _LOCAL.unpack_from(local)
    start = entry.at + LOCAL_BYTES + name_bytes + extra_bytes
    if signature != MAGIC or local[LOCAL_BYTES : LOCAL_BYTES + name_bytes] != raw:
        raise FormatError("has another name in its local header than in the directory", where=where)
    if method or flags & _ENCRYPTED or bool(flags & _DESCRIPTOR) != entry.descriptor:
        raise FormatError("is stored differently from its entry in the directory", where=where)
    if not entry.descriptor and not {packed, size} <= {entry.size, _FULL64}:
        raise FormatError("has another size in its local header than in the directory", where=where)
    if start + entry.size > entry.stop:
        raise FormatError("overlaps what follows it", where=where)
    return int(start)


MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
COUNT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Legacy:
    """The object, the storages' keys in their order, and the offset at which the first one's count is."""

    value: Value
    keys: tuple[str, ...]
    stop: int


def read_legacy(data: bytes, allowed: Allowed, budget: ReadBudget) -> Legacy | None:
    """The five pickles at the beginning of ``data``; None if the first one is not torch's magic number.

    Raises: as ``read_pickle`` does, and ``FormatError`` when they are not what torch writes.
    """
    magic, at = read_pickle(data, allowed, 0, budget)
    if type(magic) is not int or magic != MAGIC_NUMBER:
        return None
    version, at = read_pickle(data, allowed, at, budget)
    system, at = read_pickle(data, allowed, at, budget)
    value, at = read_pickle(data, allowed, at, budget)
    keys, at = read_pickle(data, allowed, at, budget)
    if type(version) is not int or version != PROTOCOL_VERSION or not isinstance(system, Items):
        raise FormatError("is a torch file of an unknown version")
    if ("little_endian", False) in [(key, one) for key, one in system.pairs[:16] if isinstance(key, str)]:
        raise FormatError("was written by a big-endian machine", hint=BIG_ENDIAN_HINT)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise FormatError("does not list each of its storages once")
    return Legacy(value, tuple(keys), at)


BIG_ENDIAN_HINT = "load it with torch, which swaps the bytes, and save it as safetensors"


def legacy_starts(keys: tuple[str, ...], stop: int, storages: dict[str, Storage]) -> tuple[dict[str, int], int]:
    """Where each storage's elements begin in the file, by key, and where the last one ends.

    ``storages`` are those that tensors refer to; each key needs one, or its size would not be known.

    Raises:
        FormatError: a storage is listed that no tensor refers to, or the other way round.
    """
    if set(keys) != storages.keys():
        raise FormatError("lists other storages than its tensors refer to")
    starts: dict[str, int] = {}
    for key in keys:
        starts[key] = stop + COUNT_BYTES
        stop = starts[key] + storages[key].numel * item_bytes(storages[key].dtype)
    return starts, stop


def is_contiguous(tensor: TorchTensor) -> bool:
    """Whether its elements are one after the other in the order of their indices."""
    wanted = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size == 0:
            return True
        if size != 1 and stride != wanted:
            return False
        wanted *= size
    return True


def state_dict(value: Value) -> dict[str, TorchTensor]:
    """The tensors of a state dict by name.

    Raises:
        FormatError: it is no dictionary of tensors by name, or a name appears twice.
    """
    if not isinstance(value, Items):
        raise FormatError(f"holds {describe(value)} instead of a dictionary of tensors")
    tensors: dict[str, TorchTensor] = {}
    for name, tensor in value.pairs:
        if not isinstance(name, str) or not isinstance(tensor, TorchTensor):
            under = f" under {name[:100]!a}" if isinstance(name, str) else ""
            raise FormatError(f"holds {describe(tensor)}{under} among its tensors")
        if name in tensors:
            raise FormatError(f"has {name[:100]!a} twice")
        if len(name) > LONGEST_NAME or len(tensors) >= MOST_TENSORS:
            raise TooLarge(f"has over {MOST_TENSORS} tensors, or names of over {LONGEST_NAME} characters")
        tensors[name] = tensor
    return tensors


def storages_of(tensors: Mapping[str, TorchTensor]) -> dict[str, Storage]:
    """The storages that tensors refer to, by key.

    Raises:
        FormatError: two references to one storage differ in its type or size.
    """
    storages: dict[str, Storage] = {}
    for tensor in tensors.values():
        one = tensor.storage
        known = storages.setdefault(one.key, one)
        if known != one:
            raise FormatError(f"refers to storage {one.key[:40]!a} as two different ones")
    return storages


def tensor_infos(tensors: Mapping[str, TorchTensor], starts: Mapping[str, int], file: str) -> dict[str, TensorInfo]:
    """The tensors in ``file``, whose storages begin at ``starts`` (bytes, by key), in the order of their bytes."""
    found = []
    for name, tensor in tensors.items():
        size = item_bytes(tensor.dtype)
        start = starts[tensor.storage.key] + tensor.offset * size
        strides = () if is_contiguous(tensor) else tensor.strides
        found.append(TensorInfo(name, tensor.dtype, tensor.shape, start, start + span(tensor) * size, file, strides))
    return {one.name: one for one in sorted(found, key=lambda one: (one.start, one.stop))}
