"""``Shard``: which of many adapters are one worker's, so that N workers that know nothing of each other share them."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lora_cli.errors import UsageError

MOST = 100_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` of ``count``, from 0, as an indexed Kubernetes Job counts (``JOB_COMPLETION_INDEX``).

    Every name is in exactly one part. It depends on the name and ``count`` alone: adapters that come or go move none.
    """

    index: int
    count: int

    def has(self, name: str) -> bool:
        """Whether that adapter is in this part."""
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """The shard that ``"I/N"`` names.

    Raises:
        UsageError: it is invalid.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < count <= MOST:
        raise UsageError(f"--shard {text[:60]!r} is not I/N", hint=f"--shard 0/4 is the first of four; at most {MOST}")
    if index >= count:
        raise UsageError(
            f"--shard {index}/{count}: shards are counted from 0", hint=f"0/{count} to {count - 1}/{count}"
        )
    return Shard(index, count)


def in_shard(items: Iterable[T], shard: str | None, name: Callable[[T], str]) -> Iterator[T]:
    """The ``items`` whose ``name`` is in the shard ``"I/N"``; all of them without one. Raises as ``parse_shard``."""
    part = parse_shard(shard) if shard is not None else None
    return (item for item in items if part is None or part.has(name(item)))
