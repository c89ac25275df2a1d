"""First in, first out: what SGLang has besides LRU. For simulations only: it is below LRU on all traffic there is."""

from collections.abc import Iterator


class Fifo:
    """Holds the keys in the order in which they were loaded."""

    def __init__(self) -> None:
        self._order: dict[str, None] = {}

    def hit(self, key: str) -> None:
        """Nothing to do."""

    def loaded(self, key: str, *, ahead: bool) -> None:
        """``key`` is the last to leave."""
        self._order[key] = None

    def left(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``."""
        del self._order[key]

    def leaving(self) -> Iterator[str]:
        """The one that was loaded first."""
        return iter(self._order)
