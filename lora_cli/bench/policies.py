"""The policies that a simulation knows: those of the tiers, FIFO, and the best that there could be."""

from collections.abc import Iterator, Sequence

from lora_cli.core.nearest import did_you_mean
from lora_cli.errors import UsageError
from lora_cli.tiers.eviction import Eviction
from lora_cli.tiers.eviction.registry import POLICIES
from lora_cli.tiers.view import View

OPT = "opt"
"""Belady's, who knows the whole trace."""

ONLINE = ("lru", "fifo", "lfu", "gdsf", "adaptive")
NAMES = (*ONLINE, OPT)


def make(policy: str, view: View) -> Eviction:
    """The online policy of that name, for one tier."""
    for name, maker in POLICIES.items():
        if name == policy:
            return maker(view)
    return Fifo()


def parse_policies(text: str) -> tuple[str, ...]:
    """``lru,adaptive,opt``, each once, in this order.

    Raises:
        UsageError: there is no such policy.
    """
    found = tuple(dict.fromkeys(word.strip().lower() for word in text.split(",")))
    for word in found:
        if word not in NAMES:
            raise UsageError(f"--eviction {text[:60]}: there is no policy {word[:30]}", hint=did_you_mean(word, NAMES))
    return found


def slowest_first(policies: Sequence[str]) -> list[str]:
    """In the order to start them in, so that all end at about the same time."""
    return sorted(policies, key=lambda name: name != "adaptive")


class Fifo:
    """First in, first out: what SGLang has besides LRU. For simulations only: it has fewer hits than LRU."""

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
