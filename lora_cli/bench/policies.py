"""The policies that a simulation knows: those of the tiers, FIFO, and the best that there could be."""

from collections.abc import Sequence

from lora_cli.bench.fifo import Fifo
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
