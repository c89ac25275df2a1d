"""Least recently used: who was asked for longest ago leaves first."""

from collections import OrderedDict
from collections.abc import Iterator


class Lru:
    """Holds the keys in the order of their last request."""

    def __init__(self) -> None:
        self._order: OrderedDict[str, None] = OrderedDict()

    def hit(self, key: str) -> None:
        """``key`` is the latest."""
        self._order.move_to_end(key)

    def loaded(self, key: str, *, ahead: bool) -> None:
        """``key`` is the latest; one that is loaded ahead has its request soon."""
        self._order[key] = None

    def left(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``."""
        del self._order[key]

    def leaving(self) -> Iterator[str]:
        """The one whose last request is the oldest first."""
        return iter(self._order)
