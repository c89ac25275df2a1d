"""The opcodes that look names up, and what is made of these: descriptions, as far as the allow-list goes."""

from lora_cli.core.pickles.allowed import GETATTR
from lora_cli.core.pickles.opcodes import Op
from lora_cli.core.pickles.stack import Machine, refusal
from lora_cli.core.pickles.tensors import storage_of
from lora_cli.core.pickles.values import Global, Items, Opaque, Value, in_words
from lora_cli.errors import FormatError

OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that Python 2 had under another name."""


def _look_up(machine: Machine, op: Op, module: str, name: str) -> None:
    found = Global(OLD_NAMES.get(module, module), name)
    if not machine.allowed.knows(found):
        machine.refuse(op, Global(module, name), f"which {machine.allowed.who} never need")
    machine.stack.append(found)


def look_up(machine: Machine, op: Op) -> None:
    """GLOBAL: a name of a module."""
    _look_up(machine, op, *op.arg)


def look_up_computed(machine: Machine, op: Op) -> None:
    """STACK_GLOBAL: module and name from the stack, where only plain strings may stand."""
    name, module = machine.pop(op), machine.pop(op)
    if not isinstance(name, str) or not isinstance(module, str):
        raise refusal(op, f"looks up a computed name: {in_words(module)}, {in_words(name)}")
    _look_up(machine, op, module, name)


def reduce(machine: Machine, op: Op) -> None:
    """REDUCE: the call of a name, described as the allow-list says."""
    args, called = machine.pop(op), machine.pop(op)
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
            raise FormatError("reaches into something else than an enumeration")
        if not isinstance(args[1], str) or not args[1].isidentifier() or args[1].startswith("_"):
            raise FormatError(f"takes {in_words(args[1])} of {args[0]}, which is no member")
        return Opaque(str(args[0]))
    if machine.allowed.is_enum(called) and len(args) == 1 and isinstance(args[0], str | int):
        return Opaque(str(called))
    raise FormatError("may not be called")


def new_object(machine: Machine, op: Op) -> None:
    """NEWOBJ: an object of a known class, without arguments, as opaque data."""
    args, cls = machine.pop(op), machine.pop(op)
    if not isinstance(cls, Global):
        raise refusal(op, f"makes an object of {in_words(cls)}")
    if not machine.allowed.is_object(cls) or args != ():
        machine.refuse(op, cls, "of which no object may be made here")
    machine.stack.append(Opaque(str(cls), buildable=True))


def build(machine: Machine, op: Op) -> None:
    """BUILD: the attributes of an object that may have some."""
    state = machine.pop(op)
    machine.as_data(op, (state,))
    target = machine.top()
    if isinstance(target, Items) and isinstance(state, Items):
        return
    if not isinstance(target, Opaque) or not target.buildable or not isinstance(state, Items | tuple):
        raise refusal(op, f"sets the state of {in_words(target)} to {in_words(state)}")


def persistent(machine: Machine, op: Op) -> None:
    """BINPERSID: what torch writes for a storage."""
    machine.stack.append(storage_of(machine.pop(op)))


def refused(machine: Machine, op: Op) -> None:
    """An opcode that no weights and no trainer need: another way to call, or to reach outside of the pickle."""
    what = ".".join(op.arg) if isinstance(op.arg, tuple) else ""
    raise refusal(op, f"{what[:200]!r} is refused" if what else "is refused", what)
