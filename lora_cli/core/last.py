"""The last result of a function, for whoever asks again with the very same things: adapters of a fleet are alike."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Last(Generic[T]):
    """Keeps one result, with what it is of. Threads may share it: at worst they make a result twice."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[Any, ...], T] | None = None

    def of(self, make: Callable[..., T], *things: Any) -> T:
        """``make(*things)``; it is not made again where each thing is the same object as the last time."""
        kept = self._kept
        if kept is not None and all(one is other for one, other in zip(kept[0], things, strict=True)):
            return kept[1]
        result = make(*things)
        self._kept = things, result
        return result
