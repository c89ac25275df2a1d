"""A file, or what lies within one, that is read by ranges and only so far."""

from collections.abc import Callable
from dataclasses import dataclass

from lora_cli.core.pickles.opcodes import Effort

HEAD = 1 << 12
"""Bytes of a file's beginning that are read to know it."""


@dataclass(frozen=True, slots=True, eq=False)
class Readable:
    """``size`` bytes, whose ``head`` is here; what else is read of them is taken off ``effort``.

    ``path`` names them in errors. ``near`` says that a range costs no round trip.
    """

    path: str
    size: int
    head: bytes
    fetch: Callable[[int, int], bytes]
    effort: Effort
    near: bool = True

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``.

        Raises:
            TooLarge: no more is to be read.
            LoraCliError: what the source raises.
        """
        if stop <= len(self.head):
            return self.head[start:stop]
        self.effort.read(stop - start)
        return self.fetch(start, stop)

    def part(self, path: str, start: int, size: int) -> "Readable":
        """What lies within it from ``start`` on, under a name of its own."""
        head = self.read(start, start + min(HEAD, size))
        return Readable(path, size, head, lambda a, b: self.read(start + a, start + b), self.effort, self.near)


def in_memory(path: str, data: bytes, effort: Effort) -> Readable:
    """What was unpacked."""
    return Readable(path, len(data), data[:HEAD], lambda start, stop: data[start:stop], effort)
