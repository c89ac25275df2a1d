"""Whether a file is a pickle or holds one, and what is wrong with it: archives and compressed files are looked into."""

import re
from collections.abc import Iterator

from lora_cli.core.pickles.machine import Op, Truncated, can_begin, opcodes
from lora_cli.core.pickles.torch_archive import MAGIC as ZIP
from lora_cli.errors import FormatError, TooLarge, UnsafePickle
from lora_cli.reading.archives import MOST_UNPACKED, UNREAD, how_compressed, tar_members, unpack, zip_members
from lora_cli.reading.byte_ranges import HEAD, Readable
from lora_cli.reading.pickle_files import is_tar
from lora_cli.reading.torch_pickle import examine, examine_first

PROTO, NUMPY = re.compile(rb"\x80[\x02-\x05]"), b"\x93NUMPY"
OBJECTS = re.compile(rb"['\"][|<>=]?O\d*['\"]")
LONGEST_HEADER = 1 << 16

EXECUTING = frozenset(("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"))
PLAIN_NAME = re.compile(r"[A-Za-z_][\w.]{0,200}", re.ASCII)


def is_container(head: bytes) -> bool:
    """Whether a file that begins so is an archive, or compressed."""
    return head.startswith(ZIP) or is_tar(head) or bool(how_compressed(head))


def look(readable: Readable, *, named: bool) -> bool:
    """Whether it is a pickle, or holds one; ``named`` says that it is called so.

    Raises:
        UnsafePickle: one that does something else than to describe data.
        TooLarge: there is more than is looked at.
        FormatError: it is malformed.
    """
    head = readable.head
    if head.startswith(ZIP):
        return _zip(readable, named=named)
    if is_tar(head):
        return _any(tar_members(readable))
    how = how_compressed(head)
    return _compressed(readable, how, named=named) if how else _plain(readable, named=named)


def _plain(readable: Readable, *, named: bool) -> bool:
    """As ``look``, of what is no archive and not compressed."""
    if readable.head.startswith(NUMPY):
        return _array(readable)
    if not (can_begin(readable.head[:1]) if named else _begins(readable.head)):
        return False
    examine(readable)
    return True


def _begins(head: bytes) -> bool:
    """Whether a file that is not called so begins as a pickle does: with opcodes, as far as they can be seen.

    Text can look like the opcodes of protocol 0: it is one only where it runs something.
    """
    if not can_begin(head[:1]):
        return False
    seen: list[Op] = []
    try:
        seen.extend(opcodes(head))
    except (Truncated, TooLarge):
        pass
    except FormatError:
        return False
    if PROTO.match(head):
        return len(seen) > 1
    names = [name for op in seen if op.name in {"GLOBAL", "INST"} for name in op.arg]
    return any(op.name in EXECUTING for op in seen) and all(map(PLAIN_NAME.fullmatch, names))


def _array(readable: Readable) -> bool:
    """An array of numpy: one of objects is a pickle behind its header."""
    wide = 2 if readable.head[6:7] == b"\x01" else 4
    start = 8 + wide + int.from_bytes(readable.head[8 : 8 + wide], "little")
    if start > min(LONGEST_HEADER, readable.size):
        raise FormatError("is an array with a header that numpy does not write")
    if not OBJECTS.search(readable.read(0, start)):
        return False
    examine_first(readable, start)
    return True


def _zip(readable: Readable, *, named: bool) -> bool:
    """A torch file, torch files in a row, or an archive of others."""
    end = readable.path.lower().rpartition(".")[2]
    if end == "distcp":
        examine_first(readable, _first_pickle(readable.head))
        return True
    if (named and end not in {"npz", "nemo"}) or _is_torch(readable):
        examine(readable)
        return True
    return _any(zip_members(readable))


def _is_torch(readable: Readable) -> bool:
    return b"/data.pkl" in readable.head


def _first_pickle(head: bytes) -> int:
    """Where the first entry's data begin, which is the pickle in what torch writes."""
    name, extra = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
    if not head[30 : 30 + name].endswith(b"/data.pkl"):
        raise FormatError("is not a shard of a torch checkpoint")
    return 30 + name + extra


def _any(members: Iterator[Readable]) -> bool:
    """Whether a member of an archive is a pickle, or a torch file; archives in archives are let be."""
    found = False
    for member in members:
        try:
            if not member.head.startswith(ZIP):
                found |= _plain(member, named=False)
            elif _is_torch(member):
                examine(member)
                found = True
        except UnsafePickle as error:
            error.reason = f"{member.path.rpartition(': ')[2]}: {error.reason}"
            raise
        except TooLarge:
            raise
        except FormatError:
            continue
    return found


def _compressed(readable: Readable, how: str, *, named: bool) -> bool:
    """What is compressed, as far as it is unpacked: all of it only where it begins as something to be looked at."""
    if how in UNREAD.values():
        if named:
            raise TooLarge(f"is compressed with {how}, so its contents are unknown")
        return False
    inner, is_all = unpack(readable, how, HEAD)
    if not is_all and _is_worth_unpacking(inner.head, named=named):
        inner, is_all = unpack(readable, how, MOST_UNPACKED)
    try:
        return _any(tar_members(inner)) if is_tar(inner.head) else _plain(inner, named=named)
    except UnsafePickle:
        raise
    except FormatError as error:
        if is_all:
            raise
        raise TooLarge(f"unpacks to more than the limit of {MOST_UNPACKED} bytes") from error


def _is_worth_unpacking(head: bytes, *, named: bool) -> bool:
    return is_tar(head) or head.startswith(NUMPY) or (can_begin(head[:1]) if named else _begins(head))
