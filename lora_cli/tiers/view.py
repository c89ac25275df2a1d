"""What an eviction policy may look at besides what happens in its tier."""

from dataclasses import dataclass
from typing import Literal

from lora_cli.tiers.budget import Budget
from lora_cli.tiers.history import History

Objective = Literal["stall", "hits", "bytes"]

LEAST_MS = 1e-3
"""A load that was too fast to be timed still costs something: with 0 its adapter would be worth nothing at all."""


@dataclass(frozen=True, slots=True)
class View:
    """The tier's budget, the history of its adapters, and what is to be small: time lost to loads, misses, or bytes."""

    budget: Budget
    history: History
    objective: Objective = "stall"

    def loss(self, key: str) -> float:
        """What a miss of ``key`` costs, by the objective: milliseconds, 1, or bytes."""
        if self.objective == "stall":
            return self.history.cost_ms(key) or LEAST_MS
        return 1.0 if self.objective == "hits" else float(self.history.weight(key) or 1)

    def share(self, key: str) -> float:
        """How much of the tier ``key`` takes; see ``Budget.share``."""
        return self.budget.share(self.history.weight(key))

    def worth(self, key: str) -> float:
        """What one request for ``key`` saves when it is here, by the room that it takes."""
        return self.loss(key) / self.budget.share(self.history.weight(key))
