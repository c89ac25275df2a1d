"""The eviction policies by name, and which one a tier has when nobody says."""

from collections.abc import Callable, Mapping
from typing import Literal

from lora_cli.tiers.eviction import Eviction
from lora_cli.tiers.eviction.adaptive import Adaptive
from lora_cli.tiers.eviction.gdsf import Gdsf
from lora_cli.tiers.eviction.lfu import Lfu
from lora_cli.tiers.eviction.lru import Lru
from lora_cli.tiers.history import LASTING
from lora_cli.tiers.view import View

PolicyName = Literal["lru", "lfu", "gdsf", "adaptive"]

DEFAULT: PolicyName = "adaptive"


def _lru(_view: View) -> Eviction:
    return Lru()


def _lfu(view: View) -> Eviction:
    return Lfu(view.history.rate(LASTING))


def _gdsf(view: View) -> Eviction:
    return Gdsf(view.worth)


POLICIES: Mapping[PolicyName, Callable[[View], Eviction]] = {
    "lru": _lru,
    "lfu": _lfu,
    "gdsf": _gdsf,
    "adaptive": Adaptive,
}
"""Each makes a policy for one tier: its budget and history are in the view, which the ledger has to tell."""
