"""Pickle's stack machine over descriptions: opcodes in, one described value out. Nothing is ever called."""

from collections.abc import Mapping

from lora_cli.core.pickles import containers, objects
from lora_cli.core.pickles.allowed import Allowed
from lora_cli.core.pickles.opcodes import Effort, Op, opcodes
from lora_cli.core.pickles.stack import Handler, Machine
from lora_cli.core.pickles.values import Value
from lora_cli.errors import FormatError, TooLarge, UnsafePickle

MOST_ON_STACK = 100_000
"""Values that wait at once to be put into something: pickle does so in thousands."""


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
                    f"byte {foreign.at}: {foreign.name} is no opcode that torch.load(weights_only=True) reads",
                    hint="save the weights as safetensors, or with torch.save's own pickle protocol",
                )
            return machine.stack.pop(), op.at + 1
        if foreign is None and allowed.opcodes and op.name not in allowed.opcodes:
            # Kept for the end: what the pickle reaches for matters more than how it is written.
            foreign = op
        if len(machine.stack) > MOST_ON_STACK:
            raise TooLarge(f"byte {op.at}: over {MOST_ON_STACK} values stand on the stack, more than any weights need")
        try:
            HANDLERS[op.name](machine, op)
        except UnsafePickle:
            raise
        except FormatError as error:
            raise FormatError(f"byte {op.at}: {op.name} {error.reason}") from error
    raise AssertionError("opcodes() ends with STOP or raises")


HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), containers.push_argument
    ),
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        containers.push_argument,
    ),
    **dict.fromkeys(("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), containers.push_argument),
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ_EX", "PERSID", "EXT1", "EXT2", "EXT4"), objects.refused),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), objects.refused),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), containers.recall),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), containers.remember),
    "NONE": containers.push(None),
    "NEWTRUE": containers.push(True),
    "NEWFALSE": containers.push(False),
    "EMPTY_TUPLE": containers.push(()),
    "MARK": containers.mark,
    "TUPLE": containers.marked_tuple,
    "TUPLE1": containers.tuple_of(1),
    "TUPLE2": containers.tuple_of(2),
    "TUPLE3": containers.tuple_of(3),
    "EMPTY_LIST": containers.empty_list,
    "LIST": containers.marked_list,
    "APPEND": containers.append,
    "APPENDS": containers.appends,
    "EMPTY_DICT": containers.empty_dict,
    "DICT": containers.marked_dict,
    "SETITEM": containers.set_item,
    "SETITEMS": containers.set_items,
    "EMPTY_SET": containers.empty_set,
    "ADDITEMS": containers.add_items,
    "FROZENSET": containers.marked_set,
    "POP": containers.pop,
    "POP_MARK": containers.pop_mark,
    "DUP": containers.duplicate,
    "MEMOIZE": containers.memoize,
    "GLOBAL": objects.look_up,
    "STACK_GLOBAL": objects.look_up_computed,
    "REDUCE": objects.reduce,
    "NEWOBJ": objects.new_object,
    "BUILD": objects.build,
    "BINPERSID": objects.persistent,
    "PROTO": containers.protocol,
    "FRAME": containers.ignore,
}
"""What each opcode does, by its name; STOP is ``read_pickle``'s own."""
