"""The capacity of a tier, and the other inputs of an eviction policy."""

from dataclasses import dataclass
from typing import Literal

from lora_cli.tiers.access_history import History


@dataclass(frozen=True, slots=True)
class Budget:
    """The capacity of a tier: ``items`` values, with ``max_bytes`` in all (None: only ``items`` counts)."""

    items: int
    max_bytes: int | None = None

    def fits(self, items: int, used_bytes: int, weight: int) -> bool:
        """Whether one more item of ``weight`` bytes fits next to ``items`` items of ``used_bytes``."""
        return items < self.items and (self.max_bytes is None or used_bytes + weight <= self.max_bytes)

    def share(self, weight: int) -> float:
        """How much of the tier one adapter takes: its part of the items or of the bytes, whichever is larger."""
        of_items = 1 / (self.items or 1)
        if self.max_bytes is None or weight <= of_items * self.max_bytes:
            return of_items
        return weight / (self.max_bytes or 1)


Objective = Literal["stall", "hits", "bytes"]

MIN_LOAD_MS = 1e-3
"""The least cost of a load: with 0 the adapter would have no worth."""


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """The inputs of a policy: the tier's budget and history, and what to minimise: load time, misses, or bytes."""

    budget: Budget
    history: History
    objective: Objective = "stall"

    def loss(self, key: str) -> float:
        """The cost of a miss of ``key``, by the objective: milliseconds, 1, or bytes."""
        if self.objective == "stall":
            return self.history.cost_ms(key) or MIN_LOAD_MS
        return 1.0 if self.objective == "hits" else float(self.history.weight(key) or 1)

    def share(self, key: str) -> float:
        """How much of the tier ``key`` takes; see ``Budget.share``."""
        return self.budget.share(self.history.weight(key))

    def worth(self, key: str) -> float:
        """The savings of a hit on ``key`` per share of the tier that it takes."""
        return self.loss(key) / self.budget.share(self.history.weight(key))
