"""Eviction policies beside each other, LRU, LFU and the best there is, on the same traces: a replay, without a device.

    python benchmarks/eviction.py [--quick] [--requests N] [--seeds N] [--slots N]... [--only WORD]...

500 adapters of one size from an empty tier on. ``hits`` is the hit ratio, the mean over the seeds; ``closed`` is the
part of the gap from LRU to the best (Belady, who knows the whole trace) that is closed.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.optimal_bounds import belady
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.workload import AccessPattern
from lora_cli.tiers.eviction import POLICIES, PolicyName
from lora_cli.tiers.memory_accounting import Budget
from tests.requested import requested
from tests.tiers.eviction.replaying import replay

Family = Callable[[int, int], tuple[str, ...]]
"""Traffic: a function of requests and a seed."""

ADAPTERS = 500
NAMES = [f"a{number}" for number in range(ADAPTERS)]
FIRST_SEED = 41
HEAD = f"{'traffic':16} {'slots':>5} {'lru':>6} {'best':>6} {'lfu':>9} {'closed':>6}"


def drawn(popularity: str, pattern: AccessPattern | None = None) -> Family:
    """Adapters of that popularity, independent of each other or in a pattern."""
    more = () if pattern is None else (pattern,)
    return lambda requests, seed: requested(NAMES, parse_popularity(popularity), requests, seed, *more)


def places(count: int) -> list[str]:
    """Ranks by popularity as names."""
    return [str(place) for place in range(count)]


def launches(requests: int, seed: int) -> tuple[str, ...]:
    """Each 100 requests a new adapter comes, and is asked for less and less as younger ones come."""
    draws = iter(requested(places(ADAPTERS), parse_popularity("zipf:1.0"), requests, seed))
    return tuple(f"b{number // 100 - int(next(draws))}" for number in range(requests))


def by_recency(requests: int, seed: int) -> tuple[str, ...]:
    """The n-th last adapter comes again with Zipf's odds: nothing but recency tells, and LRU is the best there is."""
    stack = list(NAMES)
    found = []
    for depth in requested(places(ADAPTERS), parse_popularity("zipf:1.1"), requests, seed):
        stack.insert(0, stack.pop(int(depth)))
        found.append(stack[0])
    return tuple(found)


FAMILIES: Mapping[str, Family] = {
    "zipf:0.8": drawn("zipf:0.8"),
    "zipf:1.0": drawn("zipf:1.0"),
    "zipf:1.2": drawn("zipf:1.2"),
    "drift": drawn("zipf:0.9", AccessPattern("drift", (20, 5_000))),
    "reshuffle": drawn("zipf:0.9", AccessPattern("drift", (100, 10_000))),
    "scan": drawn("zipf:0.9", AccessPattern("scan", (10,))),
    "sessions-64x5": drawn("zipf:0.9", AccessPattern("sessions", (64, 5))),
    "sessions-16x20": drawn("zipf:0.9", AccessPattern("sessions", (16, 20))),
    "slora-power:0.3": drawn("slora-power:0.3"),
    "launches": launches,
    "by-recency": by_recency,
}


@dataclass(slots=True)
class Timed:
    """Replays, and what each policy took of them: requests and seconds by policy."""

    requests: dict[str, int]
    seconds: dict[str, float]

    def ran(self, trace: Sequence[str], slots: int, policy: PolicyName) -> float:
        """The hit ratio of one replay."""
        began = time.perf_counter()
        found = replay(trace, Budget(slots), policy)
        self.requests[policy] += len(trace)
        self.seconds[policy] += time.perf_counter() - began
        return found.hits / len(trace)


def line(name: str, slots: int, traces: Sequence[Sequence[str]], timed: Timed) -> str:
    """A row of the table."""
    best = mean(sum(belady(trace, slots)[0]) / len(trace) for trace in traces)
    lru, lfu = (mean(timed.ran(trace, slots, policy) for trace in traces) for policy in POLICIES)
    gap = best - lru
    closed = f"{(lfu - lru) / gap:6.0%}" if gap else f"{'':6}"
    return f"{name:16} {slots:5} {lru:6.3f} {best:6.3f} {lfu:9.3f} {closed}"


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
    took = ", ".join(f"{name} {timed.seconds[name] / timed.requests[name] * 1e6:.1f}" for name in POLICIES)
    print(f"\nmicroseconds a request: {took}")


if __name__ == "__main__":
    main()
