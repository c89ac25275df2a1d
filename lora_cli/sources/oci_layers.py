"""Tar layers of an artifact, unpacked within bounds into a file without a name.

A member of a compressed layer cannot be read by range, and a layer is only verified once all of it has come. So a layer
is streamed once: its digest is verified, and its regular files are kept in one file, which nobody else can open and
which is gone with this process. No name of a member is ever used as a path. Headers are read here because ``tarfile``
reads names and attributes of any length, and keeps every member in memory.
"""

import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lora_cli.core.text import size as in_units
from lora_cli.errors import Corrupt, MachineError, Refused
from lora_cli.settings import Settings, bytes_kept_free
from lora_cli.sources.listed_paths import ListingBudget, check_path
from lora_cli.sources.oci_registry import PUSHED_WRONG, Descriptor

CHUNK = 1 << 20
BLOCK = tarfile.BLOCKSIZE
MOST_LAYERS = 128
MOST_MEMBERS = 500_000
"""Of all layers together."""

MOST_EXTENDED = 64 * 1024
"""The longest name or set of extended attributes of a member."""

FREE_BYTES, MOST_RATIO = 64 << 20, 20
"""A layer, and any beginning of it, unpacks to at most 64 MiB and 20 times its size. Weights hardly shrink; those that
are all zero do."""

MOST_SKIPPED = 16 << 30
"""Bytes of all layers together that are read and not kept: what follows the end of a tar. Neither ``max_bytes`` nor
the disk bounds them."""

_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_KINDS = {
    tarfile.SYMTYPE: "is a symbolic link",
    tarfile.LNKTYPE: "is a hard link",
    tarfile.CHRTYPE: "is a device",
    tarfile.BLKTYPE: "is a device",
    tarfile.FIFOTYPE: "is a FIFO",
}

Blob = Callable[[Descriptor], Generator[bytes, None, None]]


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a layer: its bytes are from ``offset`` on in the unpacked file. One with a ``defect`` has none."""

    path: str
    size: int
    sha256: str = ""
    offset: int = 0
    defect: str = ""


class _Malformed(Exception):
    """The layer is not what its media type says."""


class _Compressed(io.RawIOBase):
    """A layer as it comes, hashed and counted."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left, self.hash, self.received = chunks, memoryview(b""), hashlib.sha256(), 0

    def readable(self) -> bool:
        """As every stream."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As every stream."""
        if not self._left:
            chunk = next(self._chunks, b"")
            self.hash.update(chunk)
            self.received += len(chunk)
            self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


@dataclass
class _Tar:
    """A tar as it is unpacked: at most ``most`` bytes of it. ``source`` is the layer, whose size may be a lie."""

    stream: IO[bytes]
    most: int
    what: str
    source: _Compressed
    taken: int = 0

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes; the padding after them is skipped.

        Raises:
            _Malformed: it ends before.
            Refused: it is larger than it may be.
        """
        self.check(size)
        padding = -size % BLOCK
        self.most -= size + padding
        while size:
            piece = self.stream.read(min(size, CHUNK))
            if not piece:
                raise _Malformed("the tar ends early")
            size -= len(piece)
            self.taken += len(piece)
            if self.taken > FREE_BYTES + MOST_RATIO * self.source.received:
                self.check(self.most + 1)
            yield piece
        if len(self.stream.read(padding)) < padding:
            raise _Malformed("the tar ends early")

    def check(self, size: int) -> None:
        """Refuses a member that is larger than what is left."""
        if size > self.most:
            raise Refused(f"{self.what}: a layer unpacks to more than {MOST_RATIO} times its size", hint=PUSHED_WRONG)

    def short(self, size: int) -> bytes:
        """The next ``size`` bytes, if they are few."""
        if size > MOST_EXTENDED:
            raise Refused(f"{self.what}: a name or attribute in a tar has {size} bytes", hint=PUSHED_WRONG)
        return b"".join(self.pieces(size))


@dataclass
class Unpacked:
    """The files of an artifact's tar layers, one after the other in ``file``, which is closed with this.

    ``size`` bytes are in it, of which ``unread`` were not given to a reader yet.
    """

    file: IO[bytes]
    members: list[Member] = field(default_factory=list)
    size: int = 0
    unread: int = 0

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)

    def read(self, offset: int, size: int, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file of ``size`` bytes at ``offset``."""
        position, end = offset + start, offset + (size if stop is None else min(stop, size))
        while position < end:
            piece = os.pread(self.file.fileno(), min(CHUNK, end - position), position)
            if not piece:
                raise MachineError("a temporary file became shorter", hint="run the command again")
            position += len(piece)
            yield piece


@dataclass
class Unpacker:
    """Unpacks the tar layers of one artifact."""

    settings: Settings
    what: str
    total: int = 0
    seen: int = 0
    skipped: int = 0

    def unpack(self, layers: list[Descriptor], blob: Blob) -> Unpacked:
        """The files in ``layers``, whose digests are verified.

        Raises:
            Refused: a bound is passed, or a layer is malformed.
            Corrupt: a layer is not what its digest says.
            MachineError: the disk is full.
        """
        if len(layers) > MOST_LAYERS:
            raise Refused(f"{self.what}: it has over {MOST_LAYERS} tar layers", hint=PUSHED_WRONG)
        self._budget = ListingBudget(self.what, "push the files of one adapter only")
        self._folder = _folder_for(self.settings)
        with _on_disk(self._folder):
            unpacked = Unpacked(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115 - closed with ``unpacked``
        for layer in layers:
            with closing(blob(layer)) as chunks:
                unpacked.members += self._layer(layer, chunks, unpacked)
        return unpacked

    def _layer(self, layer: Descriptor, chunks: Iterator[bytes], into: Unpacked) -> list[Member]:
        """The files of one layer."""
        raw, problem, most = _Compressed(chunks), "", FREE_BYTES + MOST_RATIO * layer.size
        reader: IO[bytes] = io.BufferedReader(raw, CHUNK)
        result = list[Member]()
        try:
            is_gzip = compression_of(layer.media_type) == "gzip"
            stream: Any = gzip.GzipFile(fileobj=reader, mode="rb") if is_gzip else reader
            result = self._members(_Tar(stream, most, self.what, raw), into)
        except (_Malformed, EOFError, ValueError, zlib.error, gzip.BadGzipFile, tarfile.HeaderError) as error:
            problem = str(error) or type(error).__name__
        while rest := reader.read(CHUNK):
            self._skip(rest)
        digest = f"sha256:{raw.hash.hexdigest()}"
        if digest != layer.digest:
            raise Corrupt(f"{self.what}: the layer {layer.digest} was sent as {digest}", hint="run the command again")
        if problem:
            raise Refused(f"{self.what}: the layer {layer.digest} is malformed: {problem:.200}", hint=PUSHED_WRONG)
        return result

    def _members(self, tar: _Tar, into: Unpacked) -> list[Member]:
        found = list[Member]()
        for info in _headers(tar, self._count):
            path = self._path(info.name)
            is_folder = info.isdir() or (info.type == tarfile.AREGTYPE and info.name.endswith("/"))
            is_file = info.type in _REGULAR and not is_folder
            if path:
                check_path(path, self.what)
                self._budget.take(path)
            if path and not is_folder:
                defect = _KINDS.get(info.type, "is no regular file")
                found.append(self._kept(path, info.size, tar, into) if is_file else Member(path, 0, defect=defect))
            elif is_file:
                for piece in tar.pieces(info.size):
                    self._skip(piece)
        return found

    def _skip(self, piece: bytes) -> None:
        self.skipped += len(piece)
        if self.skipped > MOST_SKIPPED:
            reason = f"{self.what}: its layers have over {in_units(MOST_SKIPPED)} that are no files of the adapter"
            raise Refused(reason, hint="push the files of the adapter only")

    def _count(self) -> None:
        self.seen += 1
        if self.seen > MOST_MEMBERS:
            raise Refused(f"{self.what}: its tar layers have over {MOST_MEMBERS} members", hint=PUSHED_WRONG)

    def _path(self, name: str) -> str:
        """The name without empty parts; it stays absolute if it is."""
        path = "/".join(part for part in name.split("/") if part not in {"", "."})
        return f"/{path}" if name.startswith("/") else path

    def _kept(self, path: str, size: int, tar: _Tar, into: Unpacked) -> Member:
        """The regular file that is next in the tar, copied to the end of the unpacked ones."""
        self.total += size
        if self.settings.max_bytes is not None and self.total > self.settings.max_bytes:
            reason = f"{self.what}: its layers unpack to over {self.settings.max_bytes} bytes"
            raise Refused(reason, hint="raise max_bytes (LORA_CLI_MAX_BYTES), or push less")
        tar.check(size)
        _check_space(self._folder, size, self.settings.keep_free)
        offset, digest = into.size, hashlib.sha256()
        for piece in tar.pieces(size):
            digest.update(piece)
            with _on_disk(self._folder):
                into.file.write(piece)
        with _on_disk(self._folder):
            into.file.flush()
        into.size += size
        into.unread += size
        return Member(path, size, digest.hexdigest(), offset)


def _headers(tar: _Tar, count: Callable[[], None]) -> Iterator[tarfile.TarInfo]:
    """The members, each with its full name and size; the data of regular files is for the caller to read."""
    name, attributes = "", dict[str, str]()
    while (block := tar.stream.read(BLOCK)).strip(b"\0"):
        count()
        tar.most -= BLOCK
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if info.size < 0:
            raise _Malformed("a member has a negative size")
        if info.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
            attributes = _attributes(tar.short(info.size))
            continue
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = tar.short(info.size).rstrip(b"\0").decode(errors="surrogateescape")
            continue
        if info.type in {tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK}:
            tar.short(info.size)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in attributes):
            raise _Malformed("it has a sparse file")
        info.name = attributes.get("path") or name or info.name
        if re.fullmatch(r"\d{1,18}", attributes.get("size", ""), re.ASCII):
            info.size = int(attributes["size"])
        name, attributes = "", {}
        yield info


def _attributes(data: bytes) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE`` of a pax header (POSIX.1-2001)."""
    found, at = dict[str, str](), 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        length = int(data[at:space]) if space > at and data[at:space].isdigit() else 0
        key, equals, value = data[space + 1 : at + length].partition(b"=")
        if not equals or not value.endswith(b"\n") or at + length > len(data):
            raise _Malformed("the attributes of a member")
        found[key.decode(errors="replace")] = value[:-1].decode(errors="surrogateescape")
        at += length
    return found


def compression_of(media_type: str) -> str | None:
    """``""``, ``gzip`` or another name for a layer that is a tar by its media type, None for any other."""
    found = re.search(r"[./]tar(?:[.+]([a-z0-9]{1,16}))?$", media_type)
    return (found[1] or "") if found else None


def _folder_for(settings: Settings) -> Path:
    """Where the cache is or will be, which has room for adapters; else where temporary files are."""
    folders = (settings.cache_dir, *settings.cache_dir.parents)
    nearest = next((folder for folder in folders if folder.is_dir()), folders[-1])
    return nearest if os.access(nearest, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "free some space, or set --cache-dir to a larger disk"
        raise MachineError(f"writing a temporary file in {folder}: {error.strerror}", hint=hint) from error


def _check_space(folder: Path, size: int, keep_free: int | None) -> None:
    """As for a download: a part of the disk stays free."""
    usage = shutil.disk_usage(folder)
    reserve = bytes_kept_free(keep_free, usage.total)
    if usage.free - size < reserve:
        reason = (
            f"{folder}: {in_units(size)} needed to unpack a layer, {in_units(usage.free)} free, "
            f"with {in_units(reserve)} to be kept free"
        )
        raise MachineError(reason, hint="free some space, use a larger disk, or lower keep_free (LORA_CLI_KEEP_FREE)")
