"""Greedy dual, size and frequency: who is large, cheap to load, rarely asked for and old leaves first."""

from collections.abc import Callable, Iterator

from lora_cli.tiers.eviction.standing import Standing


class Gdsf:
    """Ranks by ``H = L + f * worth``: requests since it was loaded times load cost per size, over an age ``L``.

    ``L`` is the H of the last one evicted, so that what was popular once is overtaken in the end (Cherkasova,
    "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs 1998).
    """

    def __init__(self, worth: Callable[[str], float]) -> None:
        self._worth = worth
        self._age = 0.0
        self._times: dict[str, int] = {}
        self._value: dict[str, float] = {}
        self._standing = Standing(self._value.__getitem__)

    def hit(self, key: str) -> None:
        """One request more."""
        self._times[key] += 1
        self._value[key] = self._age + self._times[key] * self._worth(key)

    def loaded(self, key: str, *, ahead: bool) -> None:
        """Rank it by its first request, made or to come."""
        self._times[key] = 0
        self.hit(key)
        self._standing.add(key)

    def left(self, key: str, *, evicted: bool) -> None:
        """Forget ``key``; when it was evicted, what it was worth is the age."""
        self._standing.remove(key)
        value = self._value.pop(key)
        del self._times[key]
        if evicted:
            self._age = max(self._age, value)

    def leaving(self) -> Iterator[str]:
        """The lowest H first."""
        return iter(self._standing)
