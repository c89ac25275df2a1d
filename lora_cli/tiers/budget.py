"""The capacity of a tier, and the other inputs of an eviction policy."""

from dataclasses import dataclass
from typing import Literal

from lora_cli.tiers.access_history import History


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tier may hold at once: ``items`` values, and ``max_bytes`` together (None: only ``items`` counts)."""

    items: int
    max_bytes: int | None = None

    def fits(self, items: int, used_bytes: int, weight: int) -> bool:
        """Whether there is room for ``weight`` bytes more beside so many items of so many bytes."""
        return items < self.items and (self.max_bytes is None or used_bytes + weight <= self.max_bytes)

    def share(self, weight: int) -> float:
        """How much of the tier one adapter takes: its part of the items or of the bytes, whichever is larger."""
        of_items = 1 / (self.items or 1)
        if self.max_bytes is None or weight <= of_items * self.max_bytes:
            return of_items
        return weight / (self.max_bytes or 1)


Objective = Literal["stall", "hits", "bytes"]

MIN_LOAD_MS = 1e-3
"""A load that was too fast to be timed still costs something: with 0 its adapter would be worth nothing at all."""


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """The tier's budget, the history of its adapters, and what is to be small: time lost to loads, misses, or bytes."""

    budget: Budget
    history: History
    objective: Objective = "stall"

    def loss(self, key: str) -> float:
        """What a miss of ``key`` costs, by the objective: milliseconds, 1, or bytes."""
        if self.objective == "stall":
            return self.history.cost_ms(key) or MIN_LOAD_MS
        return 1.0 if self.objective == "hits" else float(self.history.weight(key) or 1)

    def share(self, key: str) -> float:
        """How much of the tier ``key`` takes; see ``Budget.share``."""
        return self.budget.share(self.history.weight(key))

    def worth(self, key: str) -> float:
        """What one request for ``key`` saves when it is here, by the room that it takes."""
        return self.loss(key) / self.budget.share(self.history.weight(key))
