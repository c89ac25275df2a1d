"""The opcodes of pickle, protocols 0 to 5: a byte string, cut into (position, opcode, argument). Nothing is executed.

The table says for each opcode how its argument is in the bytes (CPython's ``Lib/pickletools.py`` describes the same);
of the module ``pickle`` only the opcodes' bytes are used.
"""

import codecs
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from lora_cli.errors import FormatError, TooLarge

MOST_OPCODES = 2_000_000
"""Opcodes of the weights, or of all pickles next to them: 36 864 tensors (128 experts in 48 layers) take 1.5 million.
"""

MOST_BYTES = 128 << 20
"""Bytes that are read of the weights' pickle and directory, or of all files next to the weights."""

LONGEST_NUMBER = 256
"""Bytes, or digits, of one integer: no shape, count or random state has longer ones."""


class Effort:
    """What reading pickles may still take: opcodes (an entry of a directory is as one) and bytes."""

    def __init__(self, opcodes: int | None = None, nbytes: int = MOST_BYTES) -> None:
        """``opcodes`` are ``MOST_OPCODES`` when None."""
        self.most = self.opcodes = MOST_OPCODES if opcodes is None else opcodes
        self.bytes = nbytes

    def step(self, opcodes: int) -> None:
        """Take so many opcodes off.

        Raises:
            TooLarge: there are not so many left.
        """
        self.opcodes -= opcodes
        if self.opcodes < 0:
            raise TooLarge(f"there are over {self.most} opcodes, more than any weights need")

    def read(self, nbytes: int) -> None:
        """Take so many bytes off.

        Raises:
            TooLarge: there are not so many left.
        """
        self.bytes -= nbytes
        if self.bytes < 0:
            raise TooLarge("there are more bytes to read than any weights need")


Reader = Callable[[bytes, int], tuple[Any, int]]
"""Reads the argument that begins at an offset: the argument, and the offset after it."""


class Truncated(FormatError):
    """The bytes end before the pickle does. More of the same file may help."""


class Op(NamedTuple):
    """One opcode: where its byte is, its name, and its argument (None if it has none)."""

    at: int
    name: str
    arg: Any


def _none(_: bytes, at: int) -> tuple[None, int]:
    return None, at


def _fixed(layout: str) -> Reader:
    packed = struct.Struct(layout)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        if at + packed.size > len(data):
            raise Truncated("ends in the middle of an opcode")
        return packed.unpack_from(data, at)[0], at + packed.size

    return read


def _counted(layout: str, decode: Callable[[bytes], Any], longest: int | None = None) -> Reader:
    """Bytes after their own count."""
    length_of = _fixed(layout)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        length, at = length_of(data, at)
        if length < 0 or (longest is not None and length > longest):
            kind = TooLarge if length > 0 else FormatError
            raise kind(f"contains a value of {length} bytes, more than any weights need")
        if at + length > len(data):
            raise Truncated(f"ends in a value of {length} bytes")
        return decode(data[at : at + length]), at + length

    return read


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    if end < 0:
        raise Truncated("ends in the middle of a line")
    return data[at:end], end + 1


def _text_line(decode: Callable[[bytes], Any], longest: int | None = None) -> Reader:
    def read(data: bytes, at: int) -> tuple[Any, int]:
        line, end = _line(data, at)
        if longest is not None and len(line) > longest:
            raise TooLarge(f"contains a number of {len(line)} digits, more than any weights need")
        return decode(line), end

    return read


def _two_lines(data: bytes, at: int) -> tuple[tuple[str, str], int]:
    module, at = _line(data, at)
    name, at = _line(data, at)
    return (module.decode("utf-8"), name.decode("utf-8")), at


def _utf8(raw: bytes) -> str:
    # A lone surrogate is written as it is: so does CPython.
    return raw.decode("utf-8", "surrogatepass")


def _latin1(raw: bytes) -> str:
    return raw.decode("latin-1")


def _quoted(line: bytes) -> str:
    stripped = line.strip()
    if len(stripped) < 2 or stripped[:1] != stripped[-1:] or stripped[:1] not in {b"'", b'"'}:
        raise FormatError("holds a string without its quotes")
    return _latin1(codecs.escape_decode(stripped[1:-1])[0])


def _integer_line(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}[line] if line in {b"00", b"01"} else int(line)


def _long_line(line: bytes) -> int:
    return int(line.removesuffix(b"L"))


def _signed(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


_READERS: Mapping[str, Reader] = {
    **dict.fromkeys(
        (
            *("NONE", "NEWTRUE", "NEWFALSE", "NEXT_BUFFER", "READONLY_BUFFER", "MARK", "POP", "POP_MARK", "DUP"),
            *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
            *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET", "MEMOIZE"),
            *("STACK_GLOBAL", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "BINPERSID", "STOP"),
        ),
        _none,
    ),
    **dict.fromkeys(("BININT1", "BINGET", "BINPUT", "EXT1", "PROTO"), _fixed("<B")),
    **dict.fromkeys(("BININT2", "EXT2"), _fixed("<H")),
    **dict.fromkeys(("BININT", "EXT4"), _fixed("<i")),
    **dict.fromkeys(("LONG_BINGET", "LONG_BINPUT"), _fixed("<I")),
    "FRAME": _fixed("<Q"),
    "BINFLOAT": _fixed(">d"),
    "INT": _text_line(_integer_line, LONGEST_NUMBER),
    "LONG": _text_line(_long_line, LONGEST_NUMBER),
    "FLOAT": _text_line(float, LONGEST_NUMBER),
    **dict.fromkeys(("GET", "PUT"), _text_line(int, LONGEST_NUMBER)),
    "LONG1": _counted("<B", _signed, LONGEST_NUMBER),
    "LONG4": _counted("<i", _signed, LONGEST_NUMBER),
    "STRING": _text_line(_quoted),
    "BINSTRING": _counted("<i", _latin1),
    "SHORT_BINSTRING": _counted("<B", _latin1),
    "UNICODE": _text_line(lambda line: line.decode("raw-unicode-escape")),
    "BINUNICODE": _counted("<I", _utf8),
    "SHORT_BINUNICODE": _counted("<B", _utf8),
    "BINUNICODE8": _counted("<Q", _utf8),
    "BINBYTES": _counted("<I", bytes),
    "SHORT_BINBYTES": _counted("<B", bytes),
    **dict.fromkeys(("BINBYTES8", "BYTEARRAY8"), _counted("<Q", bytes)),
    **dict.fromkeys(("GLOBAL", "INST"), _two_lines),
    "PERSID": _text_line(_latin1),
}
"""How the argument of each opcode is read."""

TABLE: Mapping[int, tuple[str, Reader]] = {getattr(pickle, name)[0]: (name, read) for name, read in _READERS.items()}
"""Every opcode by its byte."""


_NEEDS_A_STACK = frozenset(
    (
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
        *("ADDITEMS", "FROZENSET", "POP", "POP_MARK", "DUP", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
        *("STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "BINPERSID", "STOP"),
    )
)


def can_begin(first: bytes) -> bool:
    """Whether a pickle can begin with this byte: else it cannot be loaded as one, and nothing in it can run."""
    return bool(first) and TABLE.get(first[0], ("STOP",))[0] not in _NEEDS_A_STACK


def opcodes(data: bytes, start: int = 0, effort: Effort | None = None) -> Iterator[Op]:
    """The opcodes of the pickle that begins at ``start``, up to and with its STOP, as far as ``effort`` goes.

    Raises:
        Truncated: the bytes end before STOP.
        TooLarge: an argument is longer, or there are more opcodes, than any weights have.
        FormatError: a byte that is no opcode, or an argument that cannot be read.
    """
    effort = effort or Effort()
    at = start
    while True:
        effort.step(1)
        if at >= len(data):
            raise Truncated(f"ends at byte {at} without STOP")
        name, read = TABLE.get(data[at], ("", _none))
        if not name:
            raise FormatError(f"byte {at} is 0x{data[at]:02x}, which is not a pickle opcode")
        try:
            arg, end = read(data, at + 1)
        except FormatError as error:
            raise type(error)(f"byte {at}: {name} {error.reason}") from error
        except ValueError as error:
            raise FormatError(f"byte {at}: {name} has an argument that cannot be read") from error
        yield Op(at, name, arg)
        if name == "STOP":
            return
        at = end
