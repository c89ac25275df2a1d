"""What is within archives and compressed files, as far as it may be read: nothing is written anywhere."""

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

from lora_cli.errors import FormatError, LoraCliError, TooLarge
from lora_cli.reading.byte_ranges import HEAD, Readable

MOST_MEMBERS = 1000
"""Members of one archive that are looked at."""

MOST_DIRECTORY = 1 << 20
"""Bytes of a zip's directory: that of so many members has a tenth of it."""

MOST_UNPACKED = 1 << 25
"""Bytes of a member or a compressed file that are unpacked where its beginning is that of a pickle."""

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
"""How what is compressed begins, and the module that unpacks it."""

UNREAD: dict[bytes, str] = {b"\x04\x22\x4d\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
"""The same of what no module of Python's own unpacks."""

_OLD_JOBLIB, _OLD_JOBLIB_AT = b"ZF0x", (20, 21)
"""joblib before 0.10: a length in hexadecimal digits, and then zlib's bytes."""


class _Stream(io.RawIOBase):
    """A ``Readable`` as Python's own modules want a file."""

    def __init__(self, whole: Readable) -> None:
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
def _told(what: str) -> Iterator[None]:
    """Whatever Python's own modules raise over hostile bytes says that these are no ``what``."""
    try:
        yield
    except LoraCliError:
        raise
    except Exception as error:
        raise FormatError(f"is not a readable {what}") from error


def zip_members(whole: Readable) -> Iterator[Readable]:
    """The files in a zip.

    Raises:
        TooLarge: there are more, or larger ones, than are looked at.
        FormatError: it is not an archive, or encrypted.
    """
    tail = whole.read(max(0, whole.size - TAIL), whole.size)
    at = tail.rfind(END)
    if at >= 0 and int.from_bytes(tail[at + 12 : at + 16], "little") > MOST_DIRECTORY:
        raise TooLarge("has a zip directory over the size limit")
    with _told("zip"), ZipFile(_Stream(whole)) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        for info in members[:MOST_MEMBERS]:
            yield _of_zip(whole, archive, info)
        if len(members) > MOST_MEMBERS:
            raise TooLarge(f"has {len(members)} members, over the limit of {MOST_MEMBERS}")


def _of_zip(whole: Readable, archive: ZipFile, info: ZipInfo) -> Readable:
    def fetch(start: int, stop: int) -> bytes:
        if stop > MOST_UNPACKED:
            raise TooLarge(f"unpacks to more than the limit of {MOST_UNPACKED} bytes")
        with _told("zip"), archive.open(info) as stream:
            return stream.read(stop)[start:]

    path = f"{whole.path}: {info.filename}"
    return Readable(path, info.file_size, fetch(0, min(HEAD, info.file_size)), fetch, whole.budget)


def tar_members(whole: Readable) -> Iterator[Readable]:
    """The files in a tar file that is not compressed. Raises as ``zip_members``."""

    def next_of(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        with _told("tar file"):
            whole.budget.step(1)
            return archive.next()

    with _told("tar file"):
        archive = tarfile.open(fileobj=_Stream(whole), mode="r:")  # noqa: SIM115 - it is read below
    for info in islice(iter(lambda: next_of(archive), None), MOST_MEMBERS):
        if info.isreg():
            yield whole.part(f"{whole.path}: {info.name}", info.offset_data, info.size)
    if next_of(archive) is not None:
        raise TooLarge(f"has over {MOST_MEMBERS} members, which are not all checked")


def how_compressed(head: bytes) -> str:
    """The module that unpacks what begins so, ``lz4`` or ``zstd`` for what none does, or nothing."""
    if head.startswith(_OLD_JOBLIB):
        return "joblib"
    return next((how for magic, how in (COMPRESSED | UNREAD).items() if head.startswith(magic)), "")


def unpack(whole: Readable, how: str, most: int) -> tuple[Readable, bool]:
    """At most ``most`` bytes of what is compressed, and whether these are all.

    Raises:
        TooLarge: no more is to be read.
        FormatError: it cannot be unpacked.
    """
    with _told(f"{how} file"):
        data, is_all = _unpack(whole, how, most)
    whole.budget.read(len(data))
    return Readable(whole.path, len(data), data[:HEAD], lambda start, stop: data[start:stop], whole.budget), is_all


def _unpack(whole: Readable, how: str, most: int) -> tuple[bytes, bool]:
    start = next((at for at in _OLD_JOBLIB_AT if whole.head[at : at + 1] == b"\x78"), 20) if how == "joblib" else 0
    machine, data = _machine(how), bytearray()
    while not machine.eof and len(data) <= most:
        packed = getattr(machine, "unconsumed_tail", b"")
        if not packed and getattr(machine, "needs_input", True):
            packed = whole.read(start, start := min(whole.size, start + STEP))
            if not packed:
                break
        data += machine.decompress(packed, most + 1 - len(data))
    return bytes(data[:most]), len(data) <= most


def _machine(how: str) -> Any:
    if how == "bz2":
        return BZ2Decompressor()
    if how == "lzma":
        return LZMADecompressor(memlimit=64 << 20)
    return zlib.decompressobj(wbits=47 if how == "zlib" else 15)
