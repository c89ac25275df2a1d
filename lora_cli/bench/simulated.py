"""A simulation as it is told: what was asked for, and what was found."""

from dataclasses import dataclass

from lora_cli.bench.fleet import Fleet
from lora_cli.bench.setting import Setting
from lora_cli.bench.simulation import Simulated
from lora_cli.tiers.view import Objective


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """The workload, the fleet that it was put to, what the policies were to make small, and their outcomes."""

    setting: Setting
    fleet: Fleet
    objective: Objective
    found: Simulated


DEFINITIONS = {
    "hit_ratio": "requests that find their adapter in a slot, of all; the first request of each is a miss",
    "miss_cost_ms": "milliseconds of all loads, into memory and into slots, added up",
    "stall_ms": "from a request's arrival until its adapter is in a slot; loads go one after the other",
    "stall_ms (inf)": "with --request-rate inf a request comes when the one before is done: it waits for its own load",
    "gap_closed": "(hits - LRU's) / (the most there can be - LRU's)",
    "cost_gap_closed": "(LRU's - miss_cost_ms) / (LRU's - the least cost that there can be)",
    "opt": "Belady's policy, who knows the whole trace: exact where slots are alike, else a bound that none passes",
    "percentiles": "nearest rank: the smallest value that so many do not exceed, without interpolation",
}
"""What the numbers mean, printed beside them."""
