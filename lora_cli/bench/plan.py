"""The answer of ``--plan`` as it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_cli.bench.conditions import Condition
from lora_cli.bench.fleet import Fleet
from lora_cli.bench.setting import Setting
from lora_cli.bench.sizing import Answer, Sizing
from lora_cli.tiers.view import Objective


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """The workload, the fleet, the goals, and by policy what it takes to meet them."""

    setting: Setting
    fleet: Fleet
    objective: Objective
    goals: tuple[Condition, ...]
    found: Mapping[str, Sizing]

    def gpu_bytes(self, answer: Answer) -> int:
        """What the slots take: as many times the largest adapter, because a slot takes any."""
        return answer.slots * max(self.fleet.sizes.values())

    def cpu_bytes(self, answer: Answer) -> int:
        """What that many adapters of middling size take in memory."""
        return answer.places * sum(self.fleet.sizes.values()) // len(self.fleet.sizes)


def plan_metrics(run: PlannedRun) -> dict[str, float | None]:
    """``lru.slots`` and ``lru.places`` of the first answer; None where there is none."""
    told: dict[str, float | None] = {}
    for name, one in run.found.items():
        first = one.answers[0] if one.answers else None
        told[f"{name}.slots"] = first.slots if first is not None else None
        told[f"{name}.places"] = first.places if first is not None else None
    return told


def planned_names(policies: Sequence[str]) -> set[str]:
    """The names of these metrics."""
    return {f"{policy}.{what}" for policy in policies for what in ("slots", "places")}


DEFINITIONS = {
    "slots": "the fewest adapters on the device at once with which all goals hold, found by halving: more is not worse",
    "places": "the fewest adapters in memory at once beside so many slots; with more slots fewer may do",
    "hits": "requests that find their adapter in a slot; the first request of each is a miss",
    "p99 ms": "how long a request waits for its adapter, one load after the other; by the nearest rank",
}
"""What the numbers of a plan mean."""
