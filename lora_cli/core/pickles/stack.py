"""The stack, the marks and the memo of pickle's machine, and the one way in which it refuses."""

from collections.abc import Callable
from typing import NoReturn

from lora_cli.core.pickles.allowed import Allowed
from lora_cli.core.pickles.opcodes import Op
from lora_cli.core.pickles.values import Global, Value
from lora_cli.errors import FormatError, UnsafePickle


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

    def pop(self, op: Op) -> Value:
        """Take the uppermost value."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise FormatError("finds the stack empty")
        return self.stack.pop()

    def top(self) -> Value:
        """The uppermost value."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise FormatError("finds the stack empty")
        return self.stack[-1]

    def pop_mark(self) -> list[Value]:
        """Take everything above the last mark, and the mark."""
        if not self.marks:
            raise FormatError("finds no mark on the stack")
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def as_data(self, op: Op, values: list[Value] | tuple[Value, ...]) -> None:
        """Whether values may stand inside another one: a function never may."""
        for value in values:
            if isinstance(value, Global) and not self.allowed.is_data(value):
                self.refuse(op, value, "which may not stand among data")

    def refuse(self, op: Op, name: Global, why: str) -> NoReturn:
        """Refuse a name that the pickle reaches for."""
        raise refusal(op, f"{str(name)[:200]!r}, {why}", str(name))


Handler = Callable[[Machine, Op], None]
"""What one opcode does to the machine."""
