"""A trace through the books of one tier: what a policy makes of it, and the best that any could."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_cli.bench.belady import belady
from lora_cli.tiers.budget import Budget
from lora_cli.tiers.eviction.registry import POLICIES, PolicyName
from lora_cli.tiers.history import History
from lora_cli.tiers.ledger import Ledger
from lora_cli.tiers.view import Objective, View


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a trace cost: ``cost_ms`` is the sum of the loads of all misses."""

    requests: int
    hits: int
    evictions: int
    cost_ms: float

    @property
    def hit_ratio(self) -> float:
        """Requests whose adapter was there, of all; 0 for an empty trace."""
        return self.hits / self.requests if self.requests else 0.0


def _one(_key: str) -> int:
    return 1


def replay(
    trace: Sequence[str],
    budget: Budget,
    policy: PolicyName,
    *,
    weigh: Callable[[str], int] = _one,
    cost_ms: Callable[[str], float] = _one,
    objective: Objective = "stall",
    look_ahead: int = 0,
) -> Replayed:
    """One request after the other through an empty tier; the next ``look_ahead`` of them are known to wait.

    Raises:
        MachineError: an adapter is larger than the budget.
    """
    view = View(budget, History(), objective)
    ledger = Ledger(budget, POLICIES[policy](view), view.history, "replayed")
    lost = 0.0
    for number, key in enumerate(trace, 1):
        if look_ahead:
            ledger.waiting(trace[number : number + look_ahead])
        cost = cost_ms(key)
        if not ledger.ask(key, weigh(key), cost).hit:
            lost += cost
    counts = ledger.counts()
    return Replayed(len(trace), counts.hits, counts.evictions, lost)


def optimal_hits(trace: Sequence[str], items: int) -> int:
    """The most hits that a tier of ``items`` equal places can have when the whole trace is known; see ``belady``."""
    return sum(belady(trace, items)[0])
