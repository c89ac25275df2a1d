"""Who leaves a full tier: one file per policy, pure and torch-free."""

from collections.abc import Sequence
from typing import Protocol


class Eviction(Protocol):
    """A policy sees every request, hit or miss, and names who leaves when room is needed."""

    def seen(self, key: str) -> None:
        """``key`` was asked for now."""
        ...

    def gone(self, key: str) -> None:
        """``key`` left the tier, evicted or discarded."""
        ...

    def victim(self, keys: Sequence[str]) -> str:
        """Which of ``keys`` (not empty, all of them free to leave) goes first."""
        ...
