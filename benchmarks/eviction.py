"""Eviction policies beside each other, LRU and the best there is, on the same traces: a replay, without a device.

    python benchmarks/eviction.py [--quick] [--requests N] [--seeds N] [--slots N]... [--only WORD]...

500 adapters of one size from an empty tier on. ``hits`` is the hit ratio, the mean over the seeds; ``closed`` is the
part of the gap from LRU to the best (Belady, who knows the whole trace) that is closed. Then ranks from 8 to 128 in a
twentieth and a fifth of all bytes, on NVMe at 7 GB/s: the milliseconds of loads for each request. The last three
families were not used to choose any parameter.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.optimal_bounds import belady
from lora_cli.tiers.eviction import POLICIES, PolicyName
from lora_cli.tiers.memory_accounting import Budget
from tests.tiers.eviction.families import ADAPTERS, CHOSEN, HELD_OUT
from tests.tiers.eviction.replaying import replay

FAMILIES = {**CHOSEN, **{name: HELD_OUT[name] for name in ("slora-power:0.3", "launches", "by-recency")}}
OTHERS: tuple[PolicyName, ...] = ("lfu", "gdsf", "adaptive")
FIRST_SEED = 41
GOALS = {"drift": 0.5, "reshuffle": 0.5, "scan": 0.5}
HEAD = (
    f"{'traffic':16} {'slots':>5} {'lru':>6} {'best':>6}"
    + "".join(f" {name:>9} {'closed':>6}" for name in OTHERS)
    + f" {'goal':>10}"
)
BYTES_HEAD = f"{'traffic':16} {'bytes':>7}" + "".join(f" {name + ' ms':>12}" for name in POLICIES)
BYTES_PER_RANK = 5_242_880


@dataclass(slots=True)
class Timed:
    """Replays, and what each policy took of them: requests and seconds by policy."""

    requests: dict[str, int]
    seconds: dict[str, float]

    def ran(self, trace: Sequence[str], slots: int, policy: PolicyName) -> float:
        """The hit ratio of one replay."""
        began = time.perf_counter()
        found = replay(trace, Budget(slots), policy, objective="hits")
        self.requests[policy] += len(trace)
        self.seconds[policy] += time.perf_counter() - began
        return found.hits / len(trace)


def line(name: str, slots: int, traces: Sequence[Sequence[str]], timed: Timed) -> str:
    """A row of the first table."""
    best = mean(sum(belady(trace, slots)[0]) / len(trace) for trace in traces)
    hits = {policy: mean(timed.ran(trace, slots, policy) for trace in traces) for policy in POLICIES}
    gap = best - hits["lru"]

    def closed(ratio: float) -> str:
        return f"{(ratio - hits['lru']) / gap:6.0%}" if gap else f"{'':6}"

    cells = "".join(f" {hits[policy]:9.3f} {closed(hits[policy])}" for policy in OTHERS)
    goal = GOALS.get(name) if slots in {8, 32} else None
    met = hits["adaptive"] - hits["lru"] >= (goal * gap if goal is not None else -0.005)
    told = f"{f'{goal:.0%}' if goal is not None else '>= lru':>6} {'met' if met else 'MISSED'}"
    return f"{name:16} {slots:5} {hits['lru']:6.3f} {best:6.3f}{cells} {told:>10}"


def bytes_line(name: str, part: int, trace: Sequence[str]) -> str:
    """A row of the second table: a ``part``-th of all bytes."""
    ranks = {f"a{number}": (8, 16, 32, 64, 128)[number * 7 % 5] for number in range(ADAPTERS)}
    budget = Budget(ADAPTERS, sum(ranks.values()) * BYTES_PER_RANK // part)

    def weigh(key: str) -> int:
        return ranks[key] * BYTES_PER_RANK

    def lost(policy: PolicyName) -> float:
        found = replay(trace, budget, policy, weigh=weigh, cost_ms=lambda key: 2 + weigh(key) / 7e6)
        return found.cost_ms / len(trace)

    return f"{name:16} {f'1/{part}':>7}" + "".join(f" {lost(policy):12.1f}" for policy in POLICIES)


def main() -> None:
    """Prints each row when it is done, and at the end what a request takes in each policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, and fewer requests")
    parser.add_argument("--requests", type=int, help="how long each trace is (30000, or 20000 when quick)")
    parser.add_argument("--seeds", type=int, help="how many traces of each family (3, or 1 when quick)")
    parser.add_argument("--slots", type=int, action="append", help="places in the tier (8, 32 and 100)")
    parser.add_argument("--only", action="append", metavar="WORD", help="only families whose names hold it")
    options = parser.parse_args()
    requests = options.requests or (20_000 if options.quick else 30_000)
    seeds = range(FIRST_SEED, FIRST_SEED + (options.seeds or (1 if options.quick else 3)))
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    print(f"{requests} requests, seeds {seeds[0]} to {seeds[-1]}")
    chosen = {
        name: [make(requests, seed) for seed in seeds]
        for name, make in FAMILIES.items()
        if not options.only or any(word in name for word in options.only)
    }
    timed = Timed(dict.fromkeys(POLICIES, 0), dict.fromkeys(POLICIES, 0.0))
    print(HEAD)
    for name, traces in chosen.items():
        for slots in options.slots or (8, 32, 100):
            print(line(name, slots, traces, timed), flush=True)
    print(f"\n{BYTES_HEAD}")
    for name in [name for name in chosen if name in CHOSEN]:
        for part in (20, 5):
            print(bytes_line(name, part, chosen[name][0]), flush=True)
    took = ", ".join(f"{name} {timed.seconds[name] / timed.requests[name] * 1e6:.1f}" for name in POLICIES)
    print(f"\nmicroseconds a request: {took}")


if __name__ == "__main__":
    main()
