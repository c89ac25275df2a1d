"""Pickle's stack machine over descriptions: opcodes in, one described value out. Nothing is ever called.

Each opcode takes time and memory in proportion to what it takes from the stack, whatever the pickle says: values are
shared, and never copied, hashed, compared in depth or walked through.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from lora_cli.core.pickles.allowlist import GETATTR, Allowed
from lora_cli.core.pickles.opcodes import Effort, Op, opcodes
from lora_cli.core.pickles.values import Global, Items, Opaque, Value, in_words, storage_of
from lora_cli.errors import FormatError, TooLarge, UnsafePickle

MOST_ON_STACK = 100_000
"""Values that wait at once to be put into something: pickle does so in thousands."""

OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that Python 2 had under another name."""


def refusal(op: Op, message: str, global_name: str = "") -> UnsafePickle:
    """The error for an opcode that does something else than to describe data."""
    return UnsafePickle(message, opcode=op.name, position=op.at, global_name=global_name)


class Machine:
    """Stack, marks and memo. Whoever pops below the last mark, or an empty stack, is malformed."""

    def __init__(self, allowed: Allowed) -> None:
        self.allowed = allowed
        self.stack: list[Value] = []
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
                self.refuse(op, value, "which is not allowed in data")
        return values

    def marked(self, op: Op) -> list[Value]:
        """Take the data above the last mark."""
        return self.as_data(op, self.pop_mark())

    def refuse(self, op: Op, name: Global, why: str) -> NoReturn:
        """Refuse a name that the pickle reaches for."""
        raise refusal(op, f"{str(name)[:200]!r}, {why}", str(name))


Handler = Callable[[Machine, Op], None]
"""What one opcode does to the machine."""


def push(make: Callable[[], Any]) -> Handler:
    """A value that is always the same, each time created again."""
    return lambda machine, op: machine.stack.append(make())


def push_argument(machine: Machine, op: Op) -> None:
    """A number or a string: the argument itself."""
    machine.stack.append(op.arg)


def push_marked(make: Callable[[list[Value]], Value]) -> Handler:
    """TUPLE, LIST and FROZENSET: what is made of the data above the last mark."""
    return lambda machine, op: machine.stack.append(make(machine.marked(op)))


def ignore(machine: Machine, op: Op) -> None:
    """FRAME says how much to read at once, and means nothing else."""


def protocol(machine: Machine, op: Op) -> None:
    """PROTO, which opens a pickle."""
    if op.arg > 5:
        raise FormatError(f"declares protocol {op.arg}; the newest is 5")


def mark(machine: Machine, op: Op) -> None:
    """MARK."""
    machine.marks.append(len(machine.stack))


def pop(machine: Machine, op: Op) -> None:
    """POP."""
    # As CPython does: on top of a mark, POP takes the mark.
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop()


def pop_mark(machine: Machine, op: Op) -> None:
    """POP_MARK: everything down to the last mark."""
    machine.pop_mark()


def recall(machine: Machine, op: Op) -> None:
    """GET and its kin: a value of the memo, which is shared and not copied."""
    if op.arg not in machine.memo:
        raise FormatError(f"reads {op.arg} of the memo, which was never written")
    machine.stack.append(machine.memo[op.arg])


def remember(machine: Machine, op: Op) -> None:
    """PUT and its kin."""
    if op.arg < 0:
        raise FormatError(f"writes {op.arg} of the memo")
    machine.memo[op.arg] = machine.top()


def memoize(machine: Machine, op: Op) -> None:
    """MEMOIZE, which numbers by itself."""
    machine.memo[len(machine.memo)] = machine.top()


def tuple_of(size: int) -> Handler:
    """TUPLE1, TUPLE2 and TUPLE3."""

    def handler(machine: Machine, op: Op) -> None:
        items = machine.as_data(op, [machine.pop() for _ in range(size)])
        machine.stack.append(tuple(reversed(items)))

    return handler


def append(machine: Machine, op: Op) -> None:
    """APPEND."""
    _extend(machine, op, machine.as_data(op, [machine.pop()]))


def appends(machine: Machine, op: Op) -> None:
    """APPENDS."""
    _extend(machine, op, machine.marked(op))


def _extend(machine: Machine, op: Op, items: list[Value]) -> None:
    target = machine.top()
    # Python calls append() or extend() of whatever stands there.
    if type(target) is not list:
        raise refusal(op, f"appends to {in_words(target)}")
    target.extend(items)


def add_items(machine: Machine, op: Op) -> None:
    """ADDITEMS of a set."""
    machine.marked(op)
    target = machine.top()
    if not isinstance(target, Opaque) or target.what != "a set":
        raise refusal(op, f"adds to {in_words(target)}")


def marked_dict(machine: Machine, op: Op) -> None:
    """DICT."""
    machine.stack.append(Items(_pairs(machine, op, machine.pop_mark())))


def set_item(machine: Machine, op: Op) -> None:
    """SETITEM."""
    value = machine.pop()
    _update(machine, op, [machine.pop(), value])


def set_items(machine: Machine, op: Op) -> None:
    """SETITEMS."""
    _update(machine, op, machine.pop_mark())


def _update(machine: Machine, op: Op, items: list[Value]) -> None:
    pairs = _pairs(machine, op, items)
    target = machine.top()
    if not isinstance(target, Items):
        raise refusal(op, f"sets items of {in_words(target)}")
    target.pairs.extend(pairs)


def _pairs(machine: Machine, op: Op, items: list[Value]) -> list[tuple[Value, Value]]:
    if len(items) % 2:
        raise FormatError("finds a key without its value")
    machine.as_data(op, items)
    return list(zip(items[::2], items[1::2], strict=True))


def _look_up(machine: Machine, op: Op, module: str, name: str) -> None:
    found = Global(OLD_NAMES.get(module, module), name)
    if not machine.allowed.knows(found):
        machine.refuse(op, Global(module, name), f"which {machine.allowed.who} never need")
    machine.stack.append(found)


def look_up(machine: Machine, op: Op) -> None:
    """GLOBAL: a name of a module."""
    _look_up(machine, op, *op.arg)


def look_up_computed(machine: Machine, op: Op) -> None:
    """STACK_GLOBAL: module and name from the stack, where only plain strings may be."""
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise refusal(op, f"looks up a computed name: {in_words(module)}, {in_words(name)}")
    _look_up(machine, op, module, name)


def reduce(machine: Machine, op: Op) -> None:
    """REDUCE: the call of a name, described as the allow-list says."""
    args, called = machine.pop(), machine.pop()
    if not isinstance(args, tuple):
        raise FormatError(f"calls with {in_words(args)} instead of a tuple")
    if not isinstance(called, Global):
        raise refusal(op, f"calls {in_words(called)}")
    try:
        machine.stack.append(_called(machine, called, args))
    except FormatError as error:
        raise refusal(op, f"{called}: {error.reason}", str(called)) from error


def _called(machine: Machine, called: Global, args: tuple[Value, ...]) -> Value:
    if called in machine.allowed.calls:
        return machine.allowed.calls[called](args)
    if called == GETATTR:
        if len(args) != 2 or not isinstance(args[0], Global) or not machine.allowed.is_enum(args[0]):
            raise FormatError("accesses a member of a type that is not an enumeration")
        if not isinstance(args[1], str) or not args[1].isidentifier() or args[1].startswith("_"):
            raise FormatError(f"takes {in_words(args[1])} of {args[0]}, which is not a member")
        return Opaque(str(args[0]))
    if machine.allowed.is_enum(called) and len(args) == 1 and isinstance(args[0], str | int):
        return Opaque(str(called))
    raise FormatError("may not be called")


def new_object(machine: Machine, op: Op) -> None:
    """NEWOBJ: an object of a known class, without arguments, as opaque data."""
    args, cls = machine.pop(), machine.pop()
    if not isinstance(cls, Global):
        raise refusal(op, f"makes an object of {in_words(cls)}")
    if not machine.allowed.is_object(cls) or args != ():
        machine.refuse(op, cls, "which must not be instantiated here")
    machine.stack.append(Opaque(str(cls), buildable=True))


def build(machine: Machine, op: Op) -> None:
    """BUILD: the attributes of an object that may have some."""
    state = machine.pop()
    machine.as_data(op, [state])
    target = machine.top()
    if isinstance(target, Items) and isinstance(state, Items):
        return
    if not isinstance(target, Opaque) or not target.buildable or not isinstance(state, Items | tuple):
        raise refusal(op, f"sets the state of {in_words(target)} to {in_words(state)}")


def persistent(machine: Machine, op: Op) -> None:
    """BINPERSID: what torch writes for a storage."""
    machine.stack.append(storage_of(machine.pop()))


def refused(machine: Machine, op: Op) -> None:
    """An opcode that no weights and no trainer need: another way to call, or to reach outside of the pickle."""
    what = ".".join(op.arg) if isinstance(op.arg, tuple) else ""
    raise refusal(op, f"{what[:200]!r} is refused" if what else "is refused", what)


HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), push_argument
    ),
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        push_argument,
    ),
    **dict.fromkeys(("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), push_argument),
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ_EX", "PERSID", "EXT1", "EXT2", "EXT4"), refused),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), refused),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), recall),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), remember),
    "NONE": push(lambda: None),
    "NEWTRUE": push(lambda: True),
    "NEWFALSE": push(lambda: False),
    "EMPTY_TUPLE": push(tuple),
    "MARK": mark,
    "TUPLE": push_marked(tuple),
    "TUPLE1": tuple_of(1),
    "TUPLE2": tuple_of(2),
    "TUPLE3": tuple_of(3),
    "EMPTY_LIST": push(list),
    "LIST": push_marked(list),
    "APPEND": append,
    "APPENDS": appends,
    "EMPTY_DICT": push(lambda: Items([])),
    "DICT": marked_dict,
    "SETITEM": set_item,
    "SETITEMS": set_items,
    "EMPTY_SET": push(lambda: Opaque("a set")),
    "ADDITEMS": add_items,
    "FROZENSET": push_marked(lambda items: Opaque("a set")),
    "POP": pop,
    "POP_MARK": pop_mark,
    "DUP": lambda machine, op: machine.stack.append(machine.top()),
    "MEMOIZE": memoize,
    "GLOBAL": look_up,
    "STACK_GLOBAL": look_up_computed,
    "REDUCE": reduce,
    "NEWOBJ": new_object,
    "BUILD": build,
    "BINPERSID": persistent,
    "PROTO": protocol,
    "FRAME": ignore,
}
"""What each opcode does, by its name; STOP is ``read_pickle``'s own."""


def read_pickle(data: bytes, allowed: Allowed, start: int = 0, effort: Effort | None = None) -> tuple[Value, int]:
    """The value that the pickle at ``start`` describes, and the offset after its STOP, as far as ``effort`` goes.

    Raises:
        UnsafePickle: it looks up or uses what is not in ``allowed``.
        Truncated: it goes on after the end of ``data``.
        TooLarge: it is larger than any weights need.
        FormatError: it is malformed.
    """
    machine = Machine(allowed)
    foreign: Op | None = None
    for op in opcodes(data, start, effort):
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
