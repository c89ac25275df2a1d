"""Least frequently used, aged: who is asked for least often leaves first."""

from collections.abc import Callable, Iterator

from lora_cli.tiers.eviction.standing import Standing


class Lfu:
    """Ranks by ``rate``, the logarithm of how often a key is asked for of late.

    The rate is over a key's whole history, not only since it was loaded: who comes back is known at once.
    """

    def __init__(self, rate: Callable[[str], float]) -> None:
        self._standing = Standing(rate)

    def hit(self, key: str) -> None:
        """Nothing to do: the rate has risen."""

    def loaded(self, key: str, *, ahead: bool) -> None:
        """Rank ``key``."""
        self._standing.add(key)

    def left(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``."""
        self._standing.remove(key)

    def leaving(self) -> Iterator[str]:
        """The lowest rate first."""
        return iter(self._standing)
