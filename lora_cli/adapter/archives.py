"""The contents of archives and compressed files, within limits, in memory only."""

import io
import tarfile
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from lzma import LZMADecompressor
from typing import Any
from zipfile import ZipFile, ZipInfo

from lora_cli.adapter.byte_ranges import HEAD, RangeReader
from lora_cli.errors import FormatError, LoraCliError, TooLarge

MOST_MEMBERS = 1000
"""Members of one archive that are checked."""

MOST_DIRECTORY = 1 << 20
"""Bytes of a zip's directory: ten times that of ``MOST_MEMBERS``."""

MOST_UNPACKED = 1 << 25
"""Bytes of a member or a compressed file that are unpacked if it starts as a pickle does."""

STEP = 1 << 16
"""Bytes that are unpacked at once."""

LONGEST_READ = 1 << 22
"""Bytes that a reader of archives may ask for at once."""

END, TAIL = b"PK\x05\x06", 1 << 16

COMPRESSED: dict[bytes, str] = {
    b"\x1f\x8b": "zlib",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "lzma",
    b"\x5d\x00\x00": "lzma",
    **{bytes((0x78, level)): "zlib" for level in (0x01, 0x5E, 0x9C, 0xDA)},
}
"""First bytes of compressed files, and the module that unpacks them."""

UNREAD: dict[bytes, str] = {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
"""The same for formats that no module of the standard library unpacks."""

_OLD_JOBLIB, _OLD_JOBLIB_AT = b"ZF0x", (20, 21)
"""joblib before 0.10: a length in hexadecimal digits, then a zlib stream."""


class _Stream(io.RawIOBase):
    """A ``RangeReader`` as a file object, for modules of the standard library."""

    def __init__(self, whole: RangeReader) -> None:
        self._whole, self._at = whole, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._whole.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._whole.size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if size > LONGEST_READ:
            raise TooLarge(f"asks for {size} bytes at once")
        data = self._whole.read(self._at, self._at + size) if size else b""
        self._at += len(data)
        return data


@contextmanager
def _format_errors(what: str) -> Iterator[None]:
    """Turns any exception of the standard library over hostile bytes into a ``FormatError``."""
    try:
        yield
    except LoraCliError:
        raise
    except Exception as error:
        raise FormatError(f"is not a readable {what}") from error


def zip_members(whole: RangeReader) -> Iterator[RangeReader]:
    """The files in a zip.

    Raises:
        TooLarge: there are more, or larger ones, than are checked.
        FormatError: it is not an archive, or encrypted.
    """
    tail = whole.read(max(0, whole.size - TAIL), whole.size)
    at = tail.rfind(END)
    if at >= 0 and int.from_bytes(tail[at + 12 : at + 16], "little") > MOST_DIRECTORY:
        raise TooLarge("has a zip directory over the size limit")
    with _format_errors("zip"), ZipFile(_Stream(whole)) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        for info in members[:MOST_MEMBERS]:
            yield _zip_member(whole, archive, info)
        if len(members) > MOST_MEMBERS:
            raise TooLarge(f"has {len(members)} members, over the limit of {MOST_MEMBERS}")


def _zip_member(whole: RangeReader, archive: ZipFile, info: ZipInfo) -> RangeReader:
    def fetch(start: int, stop: int) -> bytes:
        if stop > MOST_UNPACKED:
            raise TooLarge(f"unpacks to more than the limit of {MOST_UNPACKED} bytes")
        with _format_errors("zip"), archive.open(info) as stream:
            return stream.read(stop)[start:]

    path = f"{whole.path}: {info.filename}"
    return RangeReader(path, info.file_size, fetch(0, min(HEAD, info.file_size)), fetch, whole.budget)


def tar_members(whole: RangeReader) -> Iterator[RangeReader]:
    """The files in a tar file that is not compressed. Raises as ``zip_members``."""

    def next_of(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        with _format_errors("tar file"):
            whole.budget.step(1)
            return archive.next()

    with _format_errors("tar file"):
        archive = tarfile.open(fileobj=_Stream(whole), mode="r:")  # noqa: SIM115 - it is read below
    for info in islice(iter(lambda: next_of(archive), None), MOST_MEMBERS):
        if info.isreg():
            yield whole.part(f"{whole.path}: {info.name}", info.offset_data, info.size)
    if next_of(archive) is not None:
        raise TooLarge(f"has over {MOST_MEMBERS} members, which are not all checked")


def how_compressed(head: bytes) -> str:
    """The module that unpacks a file with these first bytes, ``lz4`` or ``zstd`` (no module), or ""."""
    if head.startswith(_OLD_JOBLIB):
        return "joblib"
    return next((how for magic, how in (COMPRESSED | UNREAD).items() if head.startswith(magic)), "")


def unpack(whole: RangeReader, how: str, most: int) -> tuple[RangeReader, bool]:
    """At most ``most`` unpacked bytes, and whether these are all.

    Raises:
        TooLarge: the limit on bytes to read is reached.
        FormatError: it cannot be unpacked.
    """
    with _format_errors(f"{how} file"):
        data, is_all = _unpack(whole, how, most)
    whole.budget.read(len(data))
    return RangeReader(whole.path, len(data), data[:HEAD], lambda start, stop: data[start:stop], whole.budget), is_all


def _unpack(whole: RangeReader, how: str, most: int) -> tuple[bytes, bool]:
    start = next((at for at in _OLD_JOBLIB_AT if whole.head[at : at + 1] == b"\x78"), 20) if how == "joblib" else 0
    machine, data = _decompressor(how), bytearray()
    while not machine.eof and len(data) <= most:
        packed = getattr(machine, "unconsumed_tail", b"")
        if not packed and getattr(machine, "needs_input", True):
            packed = whole.read(start, start := min(whole.size, start + STEP))
            if not packed:
                break
        data += machine.decompress(packed, most + 1 - len(data))
    return bytes(data[:most]), len(data) <= most


def _decompressor(how: str) -> Any:
    if how == "bz2":
        return BZ2Decompressor()
    if how == "lzma":
        return LZMADecompressor(memlimit=64 << 20)
    return zlib.decompressobj(wbits=47 if how == "zlib" else 15)
