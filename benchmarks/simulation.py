"""How long a simulation of a million requests takes, by policy and altogether, with two tiers and mixed ranks.

    python benchmarks/simulation.py [--requests N]
    python benchmarks/simulation.py --live BASE [--rounds N] [--live-requests N] [--rate R] [--adapters N]

500 adapters of ranks 8 to 64 in 32 slots and 128 places in memory; Zipf 1.0 at 50 requests a second, in bursts. The
goal is 60 s on two processors for a million requests and four policies, the making of the requests included.

With ``--live`` it is how far a simulation is from runs of lora-cli's own server on that base (``tiny`` writes one of
random weights): each round has another seed and another server with empty caches, and is simulated with the links that
it saved itself, and with those of the round before. The goals are 0.01 for hits and 15 % for the p99 stall.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.policy_comparison import simulate_all
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.simulator import POLICY_NAMES, Fleet, adapter_sizes, parse_ranks
from lora_cli.bench.workload import AccessPattern, SyntheticWorkload, make_requests
from lora_cli.tiers.memory_accounting import Budget
from tests.making import write_base_config

GOAL_S, GOAL_REQUESTS = 60.0, 1_000_000
ADAPTERS = [f"a{number}" for number in range(500)]
GOALS = {"hit_ratio": 0.01, "stall_p99": 0.15}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=GOAL_REQUESTS, help="how many (1000000)")
    parser.add_argument("--live", metavar="BASE", help="compare with live runs on this base, or on one called tiny")
    parser.add_argument("--rounds", type=int, default=3, help="live runs (3)")
    parser.add_argument("--live-requests", type=int, default=300, help="requests of a live run (300)")
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second of a live run (4)")
    parser.add_argument("--adapters", type=int, default=16, help="adapters; a quarter fit into slots, half into memory")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start")
    if asked.live is None:
        speed(asked.requests)
        return
    with tempfile.TemporaryDirectory(prefix="lora-cli-simulation-") as temporary:
        accuracy(Path(temporary), asked)


def accuracy(folder: Path, asked: argparse.Namespace) -> None:
    """Prints hits and p99 stalls of each round, live and simulated, and the medians of the errors."""
    base = write_base_config(folder / "base") if asked.live == "tiny" else Path(asked.live).resolve()
    tiers = ["--eviction", "lru", "--max-loras", str(asked.adapters // 4), "--max-cpu-loras", str(asked.adapters // 2)]
    errors: dict[str, list[dict[str, float]]] = {"its own links": [], "the links before": []}
    for seed in range(asked.rounds):
        live, links = folder / f"{seed}.json", folder / f"{seed}.links"
        load = ["--num-adapters", str(asked.adapters), "--ranks", "8", "--base", str(base), "--seed", str(seed)]
        load += ["--num-prompts", str(asked.live_requests), "--request-rate", str(asked.rate), "--num-seeds", "1"]
        load += ["--input-len", "16", "--output-len", "4", "--device", "cpu", "--save-links", str(links)]
        serve_bench([*load, *tiers, "--save-result", "--result-dir", str(folder), "--result-filename", live.name])
        for kind, file in (("its own links", links), ("the links before", folder / f"{seed - 1}.links")):
            if file.exists():
                trace = ["--trace", str(live.with_suffix(".trace.jsonl")), "--links", str(file)]
                found = serve_bench(["--simulate", *trace, *tiers, "--live-result", str(live)])
                errors[kind].append(told(f"round {seed}, {kind}", found))
    for kind, several in errors.items():
        for name, goal in GOALS.items() if several else ():
            middle = median(one[name] for one in several)
            print(f"{kind}: {name} off by {middle:.3f} (median; goal {goal}, {'met' if middle <= goal else 'MISSED'})")
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def serve_bench(argv: list[str]) -> dict[str, Any]:
    """The result of ``lora-cli serve-bench``, in a process of its own."""
    command = [sys.executable, "-m", "lora_cli", "serve-bench", *argv, "--format", "json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return found


def told(what: str, found: dict[str, Any]) -> dict[str, float]:
    """Prints a comparison; gives its errors."""
    live, lru = found["live"], found["policies"]["lru"]
    errors = {name: live["policies"]["lru"][f"{name}_error"] for name in GOALS}
    print(
        f"{what}: hits {live['hit_ratio']:.3f}, simulated {lru['hit_ratio']:.3f}; p99 stall "
        f"{live['stall_p99_ms']:.1f} ms, simulated {lru['stall_ms']['p99']:.1f} ms ({errors['stall_p99']:.0%})",
        flush=True,
    )
    return errors


def speed(requests: int) -> None:
    """Prints when each policy is done, what it found, and the whole time beside the goal."""
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
