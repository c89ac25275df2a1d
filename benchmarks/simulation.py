"""How long a simulation of a million requests takes, by policy and altogether, with two tiers and mixed ranks.

    python benchmarks/simulation.py [--requests N]

500 adapters of ranks 8 to 64 in 32 slots and 128 places in memory; Zipf 1.0 at 50 requests a second, in bursts. The
goal is 60 s on two processors for a million requests and six policies, the making of the requests included.
"""

import argparse
import os
import resource
import sys
import time

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.policy_comparison import simulate_all
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.simulator import POLICY_NAMES, Fleet, adapter_sizes, parse_ranks
from lora_cli.bench.workload import AccessPattern, SyntheticWorkload, make_requests
from lora_cli.tiers.budget import Budget

GOAL_S, GOAL_REQUESTS = 60.0, 1_000_000
ADAPTERS = [f"a{number}" for number in range(500)]


def main() -> None:
    """Prints when each policy is done, what it found, and the whole time beside the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=GOAL_REQUESTS, help="how many (1000000)")
    requests = parser.parse_args().requests
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start; {requests} requests")
    began = time.perf_counter()
    popularity = parse_popularity("zipf:1.0")
    trace = make_requests(
        ADAPTERS, SyntheticWorkload(popularity, requests, 1, AccessPattern(), request_rate=50.0, burstiness=0.5)
    )
    print(f"{time.perf_counter() - began:6.1f} s  the requests are made", flush=True)
    fleet = Fleet(adapter_sizes(ADAPTERS, parse_ranks("8:.4,16:.4,64:.2"), 1), Budget(32), Budget(128))

    def told(policy: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {policy} is done", flush=True)

    found = simulate_all(trace, fleet, POLICY_NAMES, on_done=told)
    took, goal = time.perf_counter() - began, GOAL_S * requests / GOAL_REQUESTS
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    spent = sum(part.ru_utime + part.ru_stime for part in parts)
    for name, one in found.policies.items():
        cost = one.miss_cost_ms / requests
        print(f"{name:10} hits {one.hit_ratio:.3f}  {cost:5.1f} ms a request  stall p99 {one.stall_ms['p99']:6.1f} ms")
    print(f"{len(POLICY_NAMES)} policies in {took:.1f} s (goal {goal:.0f} s, {'met' if took <= goal else 'MISSED'})")
    print(f"{spent:.1f} s of processor time; load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
