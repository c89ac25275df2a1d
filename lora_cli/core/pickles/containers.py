"""The opcodes that push, pop, remember and collect data.

Each takes time and memory in proportion to what it takes from the stack, whatever the pickle says: values are shared,
and never copied, hashed, compared in depth or walked through.
"""

from typing import Any

from lora_cli.core.pickles.opcodes import Op
from lora_cli.core.pickles.stack import Handler, Machine, refusal
from lora_cli.core.pickles.values import Items, Opaque, Value, in_words
from lora_cli.errors import FormatError


def push(value: Any) -> Handler:
    """PUSH of a value that is always the same."""
    return lambda machine, op: machine.stack.append(value)


def push_argument(machine: Machine, op: Op) -> None:
    """A number or a string: the argument itself."""
    machine.stack.append(op.arg)


def ignore(machine: Machine, op: Op) -> None:
    """FRAME says how much to read at once, and means nothing else."""


def protocol(machine: Machine, op: Op) -> None:
    """PROTO, which opens a pickle."""
    if op.arg > 5:
        raise FormatError(f"says protocol {op.arg}; the newest is 5")


def mark(machine: Machine, op: Op) -> None:
    """MARK."""
    machine.marks.append(len(machine.stack))


def pop(machine: Machine, op: Op) -> None:
    """POP."""
    # As CPython does: on top of a mark, POP takes the mark.
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.pop(op)


def pop_mark(machine: Machine, op: Op) -> None:
    """POP_MARK: everything down to the last mark."""
    machine.pop_mark()


def duplicate(machine: Machine, op: Op) -> None:
    """DUP."""
    machine.stack.append(machine.top())


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
        items = [machine.pop(op) for _ in range(size)]
        machine.as_data(op, items)
        machine.stack.append(tuple(reversed(items)))

    return handler


def marked_tuple(machine: Machine, op: Op) -> None:
    """TUPLE."""
    items = machine.pop_mark()
    machine.as_data(op, items)
    machine.stack.append(tuple(items))


def marked_list(machine: Machine, op: Op) -> None:
    """LIST."""
    items = machine.pop_mark()
    machine.as_data(op, items)
    machine.stack.append(items)


def marked_set(machine: Machine, op: Op) -> None:
    """FROZENSET."""
    machine.as_data(op, machine.pop_mark())
    machine.stack.append(Opaque("a set"))


def empty_list(machine: Machine, op: Op) -> None:
    """EMPTY_LIST."""
    machine.stack.append([])


def empty_dict(machine: Machine, op: Op) -> None:
    """EMPTY_DICT."""
    machine.stack.append(Items([]))


def empty_set(machine: Machine, op: Op) -> None:
    """EMPTY_SET."""
    machine.stack.append(Opaque("a set"))


def append(machine: Machine, op: Op) -> None:
    """APPEND."""
    _extend(machine, op, [machine.pop(op)])


def appends(machine: Machine, op: Op) -> None:
    """APPENDS."""
    _extend(machine, op, machine.pop_mark())


def _extend(machine: Machine, op: Op, items: list[Value]) -> None:
    machine.as_data(op, items)
    target = machine.top()
    # Python calls append() or extend() of whatever stands there.
    if type(target) is not list:
        raise refusal(op, f"appends to {in_words(target)}")
    target.extend(items)


def add_items(machine: Machine, op: Op) -> None:
    """ADDITEMS of a set."""
    machine.as_data(op, machine.pop_mark())
    target = machine.top()
    if not isinstance(target, Opaque) or target.what != "a set":
        raise refusal(op, f"adds to {in_words(target)}")


def marked_dict(machine: Machine, op: Op) -> None:
    """DICT."""
    machine.stack.append(Items(_pairs(machine, op, machine.pop_mark())))


def set_item(machine: Machine, op: Op) -> None:
    """SETITEM."""
    value = machine.pop(op)
    _update(machine, op, [machine.pop(op), value])


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
