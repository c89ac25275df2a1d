"""How long it takes to place a set on servers, beside round robin and hashing, and what each of them costs.

    python benchmarks/placement.py [--adapters N] [--servers N]

Adapters of ranks 8 to 64 with Zipf 1.0, and the fewest slots, at most 32, for half of a server's requests to be hits.
The goal is 60 s on two processors for 100,000 adapters on 1,000 servers; one is used. Reading configs is not in it.
"""

import argparse
import os
import resource
import sys
import time

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.placement import Demand, ServerLimits, strategies
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.simulator import parse_ranks

GOAL_S = 60.0
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def main() -> None:
    """Prints when each strategy is done, what it costs, and the whole time beside the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--servers", type=int, default=1_000, help="how many (1000)")
    asked = parser.parse_args()
    size = f"{asked.adapters} adapters, {asked.servers} servers"
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {size}")
    names = [f"a{number}" for number in range(asked.adapters)]
    ranks, weights = parse_ranks("8:.4,16:.4,64:.2").of(names, 0), parse_popularity("zipf:1.0").weights(names)
    demands = [Demand(name, ranks[name], weight, weight) for name, weight in zip(names, weights, strict=True)]
    began = time.perf_counter()
    for name, one in strategies(demands, asked.servers, ServerLimits(32, 0.5, RANKS)):
        took = f"{time.perf_counter() - began:5.1f} s  {name:11}"
        costs = f"busiest {one.busiest_server:6.2f}  rank padding {one.rank_padding:.2f}  slots {one.slots}"
        goal = f"hits {one.hit_ratio:.3f}  {one.misses_goal} servers miss the goal"
        print(f"{took} {costs}  slots x rank {one.slot_ranks}  {goal}", flush=True)
    took_s = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{took_s:.1f} s (goal {GOAL_S:.0f} s, {'met' if took_s <= GOAL_S else 'MISSED'}), {memory} MiB")


if __name__ == "__main__":
    main()
