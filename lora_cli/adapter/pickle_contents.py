"""Detects and checks pickles in a file: by itself, in an archive, or compressed."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from lora_cli.adapter.archives import MOST_UNPACKED, UNREAD, how_compressed, tar_members, unpack, zip_members
from lora_cli.adapter.byte_ranges import HEAD, RangeReader
from lora_cli.adapter.pickle_files import is_tar
from lora_cli.adapter.pickle_machine import Op, Truncated, can_begin, opcodes
from lora_cli.adapter.torch_archive import MAGIC as ZIP
from lora_cli.adapter.torch_pickle import check_first_pickle, check_pickle
from lora_cli.errors import FormatError, TooLarge, UnsafePickle

ZIPS = (ZIP, b"PK\x05\x06")
"""First bytes of what numpy reads as a zip: the second are those of one without members, but others may follow."""

PROTO, NUMPY = re.compile(rb"\x80[\x02-\x05]"), b"\x93NUMPY"
NUMBERS = re.compile(r"[|<>=]?[biufcSUVmM]\d{1,9}(\[[\w/]{1,20}\])?", re.ASCII)
"""The dtypes that numpy writes into headers, but for objects."""

LONGEST_HEADER, LONGEST_PARSED = 1 << 16, 10_000
"""Bytes of the header of an array, and how many are parsed: as many as numpy reads without allow_pickle."""

EXECUTING = frozenset(("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"))
PLAIN_NAME = re.compile(r"[A-Za-z_][\w.]{0,200}", re.ASCII)


def is_container(head: bytes) -> bool:
    """Whether a file with these first bytes is an archive, or compressed."""
    return head.startswith(ZIPS) or is_tar(head) or bool(how_compressed(head))


def contains_pickle(readable: RangeReader, *, named: bool) -> bool:
    """Whether a file is or contains a pickle, after it was checked; ``named``: its name is that of a pickle.

    Raises:
        UnsafePickle: a pickle does more than describe data.
        TooLarge: the file exceeds the limits.
        FormatError: it is malformed.
    """
    head = readable.head
    if head.startswith(ZIPS):
        return _zip(readable, named=named)
    if is_tar(head):
        return _any_member(tar_members(readable))
    how = how_compressed(head)
    return _compressed(readable, how, named=named) if how else _plain_file(readable, named=named)


def _plain_file(readable: RangeReader, *, named: bool) -> bool:
    """``contains_pickle`` for a file that is neither an archive nor compressed."""
    if readable.head.startswith(NUMPY):
        return _array(readable)
    if not (can_begin(readable.head[:1]) if named else _begins_as_pickle(readable.head, readable.size)):
        return False
    check_pickle(readable)
    return True


def _begins_as_pickle(head: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes without a pickle's name starts with opcodes of a pickle.

    Text can look like opcodes of protocol 0: it only counts if it executes something. The length of a value that is
    longer than the head, and fits into the file, is none that text has.
    """
    if not can_begin(head[:1]):
        return False
    seen: list[Op] = []
    try:
        seen.extend(opcodes(head))
    except Truncated as error:
        if 0 < error.until <= size:
            return True
    except TooLarge:
        pass
    except FormatError:
        return False
    if PROTO.match(head):
        return len(seen) > 1
    names = [name for op in seen if op.name in {"GLOBAL", "INST"} for name in op.arg]
    return any(op.name in EXECUTING for op in seen) and all(map(PLAIN_NAME.fullmatch, names))


def _array(readable: RangeReader) -> bool:
    """A numpy array: one that is not certainly without objects must have a checked pickle after its header."""
    wide = 2 if readable.head[6:7] == b"\x01" else 4
    start = 8 + wide + int.from_bytes(readable.head[8 : 8 + wide], "little")
    if start > readable.size:
        raise FormatError("is an array with a header that numpy does not write")
    if start > LONGEST_HEADER:
        raise TooLarge(f"is an array with a header of over {LONGEST_HEADER} bytes")
    if _has_no_objects(readable.read(8 + wide, start), "utf-8" if readable.head[6:7] == b"\x03" else "latin-1"):
        return False
    check_first_pickle(readable, start)
    return True


def _has_no_objects(header: bytes, encoding: str) -> bool:
    """Whether the array with that header has only numbers, text and bytes, in fields or not, as numpy writes them."""
    try:
        fields = ast.literal_eval(header.decode(encoding)) if len(header) <= LONGEST_PARSED else {}
        return _is_plain(fields["descr"])
    except (SyntaxError, ValueError, TypeError, LookupError, MemoryError, RecursionError):
        return False


def _is_plain(descr: Any) -> bool:
    if isinstance(descr, tuple):  # a dtype and its shape
        return len(descr) == 2 and _is_plain(descr[0])
    if isinstance(descr, list):
        return all(isinstance(field, tuple) and len(field) in (2, 3) and _is_plain(field[1]) for field in descr)
    return isinstance(descr, str) and NUMBERS.fullmatch(descr) is not None


def _zip(readable: RangeReader, *, named: bool) -> bool:
    """A torch file, concatenated torch files, or any other zip archive."""
    end = readable.path.lower().rpartition(".")[2]
    if end == "distcp":
        check_first_pickle(readable, _first_pickle(readable.head))
        return True
    if (named and end not in {"npz", "nemo"}) or _is_torch(readable):
        check_pickle(readable)
        return True
    return _any_member(zip_members(readable))


def _is_torch(readable: RangeReader) -> bool:
    return b"/data.pkl" in readable.head


def _first_pickle(head: bytes) -> int:
    """The offset of the first entry's data, which is the pickle in files of torch."""
    name, extra = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    if not head[30 : 30 + name].endswith(b"/data.pkl"):
        raise FormatError("is not a shard of a torch checkpoint")
    return 30 + name + extra


def _any_member(members: Iterator[RangeReader]) -> bool:
    """Whether a member of an archive is a pickle or a torch file; nested archives are not opened."""
    found = False
    for member in members:
        try:
            if not member.head.startswith(ZIP):
                found |= _plain_file(member, named=False)
            elif _is_torch(member):
                check_pickle(member)
                found = True
        except UnsafePickle as error:
            error.reason = f"{member.path.rpartition(': ')[2]}: {error.reason}"
            raise
        except TooLarge:
            raise
        except FormatError:
            continue
    return found


def _compressed(readable: RangeReader, how: str, *, named: bool) -> bool:
    """A compressed file: its head is unpacked, and all of it only if the head is a tar, an array or a pickle."""
    if how in UNREAD.values():
        if named:
            raise TooLarge(f"is compressed with {how}, so its contents are unknown")
        return False
    inner, is_all = unpack(readable, how, HEAD)
    if not is_all and _is_worth_unpacking(inner.head, named=named):
        inner, is_all = unpack(readable, how, MOST_UNPACKED)
    try:
        return _any_member(tar_members(inner)) if is_tar(inner.head) else _plain_file(inner, named=named)
    except UnsafePickle:
        raise
    except FormatError as error:
        if is_all:
            raise
        raise TooLarge(f"unpacks to more than the limit of {MOST_UNPACKED} bytes") from error


def _is_worth_unpacking(head: bytes, *, named: bool) -> bool:
    return (
        is_tar(head)
        or head.startswith(NUMPY)
        or (can_begin(head[:1]) if named else _begins_as_pickle(head, MOST_UNPACKED))
    )
