"""A window of the latest, which stay; of the others, who is worth least leaves first."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from lora_cli.tiers.eviction.standing import Standing

ROUNDING = 1e-9
"""Shares are fractions that are added and taken away again: so much over the window is none at all."""


class Windowed:
    """Two parts: the adapters asked for last, as many as fill ``window`` of the tier, and the rest by ``score``.

    The window goes by recency, which a session needs whose adapter was never seen before; the rest by rate. ``share``
    is how much of the tier a key takes, 1 for all of it.
    """

    def __init__(self, score: Callable[[str], float], share: Callable[[str], float], window: float) -> None:
        self._latest: OrderedDict[str, float] = OrderedDict()
        self._rest = Standing(score)
        self._share, self._free = share, window

    def hit(self, key: str) -> None:
        """``key`` is the latest, in the window again if it was not."""
        if key in self._latest:
            self._latest.move_to_end(key)
        else:
            self._rest.remove(key)
            self._enter(key)

    def loaded(self, key: str, *, ahead: bool) -> None:
        """``key`` is the latest."""
        self._enter(key)

    def left(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``."""
        if key in self._latest:
            self._free += self._latest.pop(key)
        else:
            self._rest.remove(key)

    def leaving(self) -> Iterator[str]:
        """The rest, the lowest score first; then the window, the oldest first."""
        yield from self._rest
        yield from self._latest

    def _enter(self, key: str) -> None:
        """``key`` into the window; the oldest ones, itself when it is too large, leave it for the rest."""
        share = self._latest[key] = self._share(key)
        self._free -= share
        while self._free < -ROUNDING:
            oldest, freed = self._latest.popitem(last=False)
            self._free += freed
            self._rest.add(oldest)
