"""A pickle read by its opcodes into a description: nothing in it is imported, nothing is called.

The opcodes and their arguments are those of ``pickletools``; the lengths in them are checked here first, and names are
decoded as ``pickle`` decodes them. The stack machine takes time and memory in proportion to what an opcode takes from
the stack, whatever the pickle says: values are shared, and never copied, hashed, compared in depth or walked through.
"""

import codecs
import io
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from lora_cli.adapter.pickle_allowlist import GETATTR, Allowed, Global, Items, Opaque, Value, describe, storage_of
from lora_cli.errors import FormatError, TooLarge, UnsafePickle

MOST_OPCODES = 2_000_000
"""Opcodes of the weights, or of all pickles next to them: 36 864 tensors (128 experts in 48 layers) take 1.5 million.
"""

MOST_BYTES = 128 << 20
"""Bytes that are read of the weights' pickle and directory, or of all files next to the weights."""

LONGEST_NUMBER = 256
"""Bytes, or digits, of one integer: no shape, count or random state has longer ones."""

MOST_ON_STACK = 100_000
"""Values that wait at once to be put into something: pickle does so in thousands."""

OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that Python 2 had under another name."""


class ReadBudget:
    """The opcodes (an entry of a directory counts as one) and bytes that may still be read."""

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


class Truncated(FormatError):
    """The bytes end before the pickle does. More of the same file may help.

    ``until`` is where the value ends that is cut off; 0 if none is.
    """

    until = 0


class Op(NamedTuple):
    """One opcode: where its byte is, its name, and its argument (None if it has none)."""

    at: int
    name: str
    arg: Any


OPCODES: Mapping[int, pickletools.OpcodeInfo] = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
"""Every opcode by its byte."""

_COUNTS: Mapping[int, struct.Struct] = {
    pickletools.TAKEN_FROM_ARGUMENT1: struct.Struct("<B"),
    pickletools.TAKEN_FROM_ARGUMENT4: struct.Struct("<i"),
    pickletools.TAKEN_FROM_ARGUMENT4U: struct.Struct("<I"),
    pickletools.TAKEN_FROM_ARGUMENT8U: struct.Struct("<Q"),
}
"""The count of bytes that an argument begins with."""

_NUMBERS = frozenset(("INT", "LONG", "FLOAT", "GET", "PUT", "LONG1", "LONG4"))


def can_begin(first: bytes) -> bool:
    """Whether a pickle can begin with this byte: else it cannot be loaded as one, and nothing in it can run."""
    opcode = OPCODES.get(first[0]) if first else None
    return opcode is not None and not opcode.stack_before and opcode.name not in {"PUT", "BINPUT", "LONG_BINPUT"}


def opcodes(data: bytes, start: int = 0, budget: ReadBudget | None = None) -> Iterator[Op]:
    """The opcodes of the pickle that begins at ``start``, up to and with its STOP, as far as ``budget`` goes.

    Raises:
        Truncated: the bytes end before STOP.
        TooLarge: an argument is longer, or there are more opcodes, than any weights have.
        FormatError: a byte that is no opcode, or an argument that cannot be read.
    """
    budget = budget or ReadBudget()
    at = start
    while True:
        budget.step(1)
        if at >= len(data):
            raise Truncated(f"ends at byte {at} without STOP")
        opcode = OPCODES.get(data[at])
        if opcode is None:
            raise FormatError(f"byte {at} is 0x{data[at]:02x}, which is not a pickle opcode")
        name, arg, end = opcode.name, None, at + 1
        if opcode.arg is not None:
            try:
                end = _argument_end(name, opcode.arg.n, data, at + 1)
                raw, decode = data[at + 1 : end], _DECODERS.get(name)
                arg = decode(raw) if decode else opcode.arg.reader(io.BytesIO(raw))
            except FormatError as error:
                placed = type(error)(f"byte {at}: {name} {error.reason}")
                if isinstance(placed, Truncated) and isinstance(error, Truncated):
                    placed.until = error.until
                raise placed from error
            except ValueError as error:
                raise FormatError(f"byte {at}: {name} has an argument that cannot be read") from error
        yield Op(at, name, arg)
        if name == "STOP":
            return
        at = end


def _argument_end(name: str, layout: int, data: bytes, at: int) -> int:
    """Where the argument at ``at`` ends. ``layout`` is its length, or one of pickletools' negative constants for it."""
    if layout == pickletools.UP_TO_NEWLINE:
        return _line_end(name, data, at)
    count = _COUNTS[layout] if layout < 0 else None
    end = at + (count.size if count else layout)
    if end > len(data):
        raise Truncated("ends in the middle of an opcode")
    if count is None:
        return end
    length = int(count.unpack_from(data, at)[0])
    if length < 0 or (length > LONGEST_NUMBER and name in _NUMBERS):
        kind = TooLarge if length > 0 else FormatError
        raise kind(f"contains a value of {length} bytes, more than any weights need")
    if end + length > len(data):
        cut = Truncated(f"ends in a value of {length} bytes")
        cut.until = end + length
        raise cut
    return end + length


def _line_end(name: str, data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    if end >= 0 and name in {"GLOBAL", "INST"}:
        end = data.find(b"\n", end + 1)
    if end < 0:
        raise Truncated("ends in the middle of a line")
    if name in _NUMBERS and end - at > LONGEST_NUMBER:
        raise TooLarge(f"contains a number of {end - at} digits, more than any weights need")
    return end + 1


def _two_lines(raw: bytes) -> tuple[str, str]:
    module, name, _ = raw.split(b"\n")
    return module.decode("utf-8"), name.decode("utf-8")


def _quoted(raw: bytes) -> str:
    line = raw.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in {b"'", b'"'}:
        raise FormatError("holds a string without its quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


_DECODERS: Mapping[str, Callable[[bytes], Any]] = {
    "GLOBAL": _two_lines,
    "INST": _two_lines,
    "STRING": _quoted,
    "PERSID": lambda raw: raw.decode("latin-1"),
    "BYTEARRAY8": lambda raw: raw[8:],
    "BINUNICODE": lambda raw: raw[4:].decode("utf-8", "surrogatepass"),
    "BINPUT": ord,
    "BINGET": ord,
}
"""Decoders of arguments that ``pickletools`` decodes differently from ``pickle`` (escapes in names), or slowly."""


class Machine:
    """Stack, marks and memo. Whoever pops below the last mark, or an empty stack, is malformed."""

    def __init__(self, allowed: Allowed) -> None:
        self.allowed = allowed
        self.stack: list[Value] = []
        self.push = self.stack.append
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}

    def top(self) -> Value:
        """The uppermost value."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise FormatError("finds the stack empty")
        return self.stack[-1]

    def pop(self) -> Value:
        """Take the uppermost value."""
        self.top()
        return self.stack.pop()

    def pop_mark(self) -> list[Value]:
        """Take everything above the last mark, and the mark."""
        if not self.marks:
            raise FormatError("finds no mark on the stack")
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def as_data(self, op: Op, values: list[Value]) -> list[Value]:
        """``values`` themselves, which are to be inside another one: a function never may."""
        for value in values:
            if isinstance(value, Global) and not self.allowed.is_data(value):
                _refuse(op, value, "which is not allowed in data")
        return values

    def marked(self, op: Op) -> list[Value]:
        """Take the data above the last mark."""
        return self.as_data(op, self.pop_mark())


def _refusal(op: Op, message: str, global_name: str = "") -> UnsafePickle:
    """The error for an opcode that does something else than to describe data."""
    return UnsafePickle(message, opcode=op.name, position=op.at, global_name=global_name)


def _refuse(op: Op, name: Global, why: str) -> NoReturn:
    """Refuse a name that the pickle reaches for."""
    raise _refusal(op, f"{str(name)[:200]!r}, {why}", str(name))


Handler = Callable[[Machine, Op], object]
"""Does to the machine what one opcode does."""


def _push_new(make: Callable[[], Value]) -> Handler:
    """A value that is always the same, each time created again."""
    return lambda machine, op: machine.push(make())


def _push_marked(make: Callable[[list[Value]], Value]) -> Handler:
    return lambda machine, op: machine.push(make(machine.marked(op)))


def _push_tuple(size: int) -> Handler:
    def handler(machine: Machine, op: Op) -> None:
        items = machine.as_data(op, [machine.pop() for _ in range(size)])
        machine.push(tuple(reversed(items)))

    return handler


def _check_protocol(machine: Machine, op: Op) -> None:
    if op.arg > 5:
        raise FormatError(f"declares protocol {op.arg}; the newest is 5")


def _pop(machine: Machine, op: Op) -> None:
    # As CPython does: on top of a mark, POP takes the mark.
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def _get(machine: Machine, op: Op) -> None:
    if op.arg not in machine.memo:
        raise FormatError(f"reads {op.arg} of the memo, which was never written")
    machine.push(machine.memo[op.arg])


def _put(machine: Machine, op: Op) -> None:
    index = len(machine.memo) if op.name == "MEMOIZE" else op.arg
    if index < 0:
        raise FormatError(f"writes {index} of the memo")
    machine.memo[index] = machine.top()


def _extend(machine: Machine, op: Op) -> None:
    items = machine.as_data(op, [machine.pop()]) if op.name == "APPEND" else machine.marked(op)
    target = machine.top()
    # Python calls append() or extend() of whatever stands there.
    if type(target) is not list:
        raise _refusal(op, f"appends to {describe(target)}")
    target.extend(items)


def _add_items(machine: Machine, op: Op) -> None:
    machine.marked(op)
    target = machine.top()
    if not isinstance(target, Opaque) or target.what != "a set":
        raise _refusal(op, f"adds to {describe(target)}")


def _set_items(machine: Machine, op: Op) -> None:
    items = [machine.pop(), machine.pop()][::-1] if op.name == "SETITEM" else machine.pop_mark()
    pairs = _pairs(machine, op, items)
    target = machine.top()
    if not isinstance(target, Items):
        raise _refusal(op, f"sets items of {describe(target)}")
    target.pairs.extend(pairs)


def _pairs(machine: Machine, op: Op, items: list[Value]) -> list[tuple[Value, Value]]:
    if len(items) % 2:
        raise FormatError("finds a key without its value")
    machine.as_data(op, items)
    return list(zip(items[::2], items[1::2], strict=True))


def _look_up(machine: Machine, op: Op) -> None:
    if op.name == "GLOBAL":
        module, name = op.arg
    else:
        name, module = machine.pop(), machine.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _refusal(op, f"looks up a computed name: {describe(module)}, {describe(name)}")
    found = Global(OLD_NAMES.get(module, module), name)
    if not machine.allowed.knows(found):
        _refuse(op, Global(module, name), f"which {machine.allowed.who} never need")
    machine.push(found)


def _reduce(machine: Machine, op: Op) -> None:
    """The call of a name, described as the allow-list says."""
    args, called = machine.pop(), machine.pop()
    if not isinstance(args, tuple):
        raise FormatError(f"calls with {describe(args)} instead of a tuple")
    if not isinstance(called, Global):
        raise _refusal(op, f"calls {describe(called)}")
    try:
        machine.push(_called(machine.allowed, called, args))
    except FormatError as error:
        raise _refusal(op, f"{called}: {error.reason}", str(called)) from error


def _called(allowed: Allowed, called: Global, args: tuple[Value, ...]) -> Value:
    if called in allowed.calls:
        return allowed.calls[called](args)
    if called == GETATTR:
        if len(args) != 2 or not isinstance(args[0], Global) or not allowed.is_enum(args[0]):
            raise FormatError("accesses a member of a type that is not an enumeration")
        if not isinstance(args[1], str) or not args[1].isidentifier() or args[1].startswith("_"):
            raise FormatError(f"takes {describe(args[1])} of {args[0]}, which is not a member")
        return Opaque(str(args[0]))
    if allowed.is_enum(called) and len(args) == 1 and isinstance(args[0], str | int):
        return Opaque(str(called))
    raise FormatError("may not be called")


def _new_object(machine: Machine, op: Op) -> None:
    """An object of a known class, without arguments, as opaque data."""
    args, cls = machine.pop(), machine.pop()
    if not isinstance(cls, Global):
        raise _refusal(op, f"makes an object of {describe(cls)}")
    if not machine.allowed.is_object(cls) or args != ():
        _refuse(op, cls, "which must not be instantiated here")
    machine.push(Opaque(str(cls), buildable=True))


def _build(machine: Machine, op: Op) -> None:
    """The attributes of an object that may have some."""
    state = machine.pop()
    machine.as_data(op, [state])
    target = machine.top()
    if isinstance(target, Items) and isinstance(state, Items):
        return
    if not isinstance(target, Opaque) or not target.buildable or not isinstance(state, Items | tuple):
        raise _refusal(op, f"sets the state of {describe(target)} to {describe(state)}")
    if target.layout is not None and not (isinstance(state, tuple) and state[2:8] == target.layout):
        raise _refusal(op, f"sets the state of {describe(target)} to another layout than its name has")


def _refused(machine: Machine, op: Op) -> None:
    """An opcode that no weights and no trainer need: another way to call, or to reach outside of the pickle."""
    what = ".".join(op.arg) if isinstance(op.arg, tuple) else ""
    raise _refusal(op, f"{what[:200]!r} is refused" if what else "is refused", what)


_ARGUMENTS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING"),
    *("SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
    *("BINBYTES8", "BYTEARRAY8"),
)
_REFUSED = ("INST", "OBJ", "NEWOBJ_EX", "PERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER")

HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(_ARGUMENTS, lambda machine, op: machine.push(op.arg)),
    **dict.fromkeys(_REFUSED, _refused),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("APPEND", "APPENDS"), _extend),
    **dict.fromkeys(("SETITEM", "SETITEMS"), _set_items),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _look_up),
    "NONE": _push_new(lambda: None),
    "NEWTRUE": _push_new(lambda: True),
    "NEWFALSE": _push_new(lambda: False),
    "EMPTY_TUPLE": _push_new(tuple),
    "EMPTY_LIST": _push_new(list),
    "EMPTY_DICT": _push_new(lambda: Items([])),
    "EMPTY_SET": _push_new(lambda: Opaque("a set")),
    "MARK": lambda machine, op: machine.marks.append(len(machine.stack)),
    "TUPLE": _push_marked(tuple),
    "LIST": _push_marked(list),
    "FROZENSET": _push_marked(lambda items: Opaque("a set")),
    "DICT": lambda machine, op: machine.push(Items(_pairs(machine, op, machine.pop_mark()))),
    "TUPLE1": _push_tuple(1),
    "TUPLE2": _push_tuple(2),
    "TUPLE3": _push_tuple(3),
    "ADDITEMS": _add_items,
    "POP": _pop,
    "POP_MARK": lambda machine, op: machine.pop_mark(),
    "DUP": lambda machine, op: machine.push(machine.top()),
    "REDUCE": _reduce,
    "NEWOBJ": _new_object,
    "BUILD": _build,
    "BINPERSID": lambda machine, op: machine.push(storage_of(machine.pop())),
    "PROTO": _check_protocol,
    "FRAME": lambda machine, op: None,
}
"""The handler of each opcode by its name; STOP is ``read_pickle``'s own."""


def read_pickle(data: bytes, allowed: Allowed, start: int = 0, budget: ReadBudget | None = None) -> tuple[Value, int]:
    """The value that the pickle at ``start`` describes, and the offset after its STOP, as far as ``budget`` goes.

    Raises:
        UnsafePickle: it looks up or uses what is not in ``allowed``.
        Truncated: it goes on after the end of ``data``.
        TooLarge: it is larger than any weights need.
        FormatError: it is malformed.
    """
    machine = Machine(allowed)
    foreign: Op | None = None
    for op in opcodes(data, start, budget):
        if op.name == "STOP":
            if len(machine.stack) != 1 or machine.marks:
                raise FormatError(f"byte {op.at}: STOP leaves {len(machine.stack)} values instead of one")
            if foreign is not None:
                raise FormatError(
                    f"byte {foreign.at}: {foreign.name} is not an opcode that torch.load(weights_only=True) supports",
                    hint="save the weights as safetensors, or with torch.save's own pickle protocol",
                )
            return machine.stack.pop(), op.at + 1
        if foreign is None and allowed.opcodes and op.name not in allowed.opcodes:
            # Kept for the end: what the pickle reaches for matters more than how it is written.
            foreign = op
        if len(machine.stack) > MOST_ON_STACK:
            raise TooLarge(f"byte {op.at}: over {MOST_ON_STACK} values are on the stack, more than any weights need")
        try:
            HANDLERS[op.name](machine, op)
        except UnsafePickle:
            raise
        except FormatError as error:
            raise FormatError(f"byte {op.at}: {op.name} {error.reason}") from error
    raise AssertionError("opcodes() ends with STOP or raises")
