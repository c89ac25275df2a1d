"""The recent results of a function, for whoever asks again with the very same things: adapters of a fleet are alike."""

from collections.abc import Callable, Sized
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LARGEST = 2000
"""Of an adapter with more tensors nothing is kept: those are few, and what they take in memory is not."""

MOST = 16
"""So many kinds of adapters are known at once: what is kept of a kind is its config, its header and what follows."""


class Recent(Generic[T]):
    """Keeps up to ``MOST`` results, each with what it is of, so that nothing else can be the same object meanwhile.

    Threads may share it: at worst they make a result twice.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], tuple[tuple[Any, ...], T]] = {}

    def of(self, make: Callable[..., T], *things: Any) -> T:
        """``make(*things)``; it is not made again where each thing is the same object as it was then."""
        kept = self.find(*things)
        return self.keep(make(*things), *things) if kept is None else kept

    def find(self, *things: Any) -> T | None:
        """What is kept of them, if anything is."""
        kept = self._kept.get(tuple(map(id, things)))
        return None if kept is None else kept[1]

    def keep(self, result: T, *things: Any) -> T:
        """``result``, which is now what is known of ``things``, unless they are large."""
        if any(isinstance(thing, Sized) and len(thing) > LARGEST for thing in things):
            return result
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[tuple(map(id, things))] = things, result
        return result
