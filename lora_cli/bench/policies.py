"""The policies that a simulation knows: those of the tiers, FIFO, and the best that there could be."""

from collections.abc import Callable, Mapping, Sequence

from lora_cli.core.nearest import did_you_mean
from lora_cli.errors import UsageError
from lora_cli.tiers.eviction import Eviction
from lora_cli.tiers.eviction.lru import Lru
from lora_cli.tiers.eviction.registry import POLICIES
from lora_cli.tiers.view import View

OPT = "opt"
"""Belady's, who knows the whole trace."""

ONLINE = ("lru", "fifo", "lfu", "gdsf", "adaptive")
NAMES = (*ONLINE, OPT)


class Fifo(Lru):
    """First in, first out: what SGLang has besides LRU. For simulations only: it has fewer hits than LRU."""

    def hit(self, key: str) -> None:
        """``key`` stays where it is."""


MAKERS: Mapping[str, Callable[[View], Eviction]] = {
    **{str(name): make for name, make in POLICIES.items()},
    "fifo": lambda _view: Fifo(),
}
"""What makes each online policy, for one tier."""


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
