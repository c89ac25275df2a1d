"""How long it takes to place a set on servers, beside round robin and hashing, and what each of them costs.

    python benchmarks/placement.py [--adapters N] [--servers N] [--command]

Adapters of ranks 8 to 64 with Zipf 1.0, and the fewest slots, at most 32, for half of a server's requests to be hits.
The goal is 60 s on two processors for 100,000 adapters on 1,000 servers. Without ``--command`` it is the placement
alone, on one processor. With it, it is all of ``lora-cli place``: it reads the set from several manifests, the config
of each adapter from a folder of its own, and a trace of two requests for each, and writes the servers' manifests.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.placement import Demand, ServerLimits, strategies
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.simulator import parse_ranks
from lora_cli.bench.trace import trace_lines
from lora_cli.bench.workload import SyntheticWorkload, make_requests
from tests.making import Q_PROJ, write_adapter, write_base_config

GOAL_S = 60.0
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
IN_A_MANIFEST = 40_000


def main() -> None:
    """Prints when each strategy is done, what it costs, and the whole time beside the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=100_000, help="how many (100000)")
    parser.add_argument("--servers", type=int, default=1_000, help="how many (1000)")
    parser.add_argument("--command", action="store_true", help="all of lora-cli place")
    asked = parser.parse_args()
    size = f"{asked.adapters} adapters, {asked.servers} servers"
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {size}")
    names = [f"a{number}" for number in range(asked.adapters)]
    ranks, weights = parse_ranks("8:.4,16:.4,64:.2").of(names, 0), parse_popularity("zipf:1.0").weights(names)
    if asked.command:
        with tempfile.TemporaryDirectory(prefix="lora-cli-placement-") as folder:
            command(Path(folder), names, ranks, asked.servers)
        return
    demands = [Demand(name, ranks[name], weight, weight) for name, weight in zip(names, weights, strict=True)]
    began = time.perf_counter()
    for name, one in strategies(demands, asked.servers, ServerLimits(32, 0.5, RANKS)):
        took = f"{time.perf_counter() - began:5.1f} s  {name:11}"
        costs = f"busiest {one.busiest_server:6.2f}  rank padding {one.rank_padding:.2f}  slots {one.slots}"
        goal = f"hits {one.hit_ratio:.3f}  {one.misses_goal} servers miss the goal"
        print(f"{took} {costs}  slots x rank {one.slot_ranks}  {goal}", flush=True)
    told(time.perf_counter() - began, resource.RUSAGE_SELF)


def command(folder: Path, names: Sequence[str], ranks: Mapping[str, int], servers: int) -> None:
    """Prints how long ``lora-cli place`` takes; the adapters of one rank are hard links to the same files."""
    write_base_config(folder / "base")
    for rank in {*ranks.values()}:
        write_adapter(folder / str(rank), modules={Q_PROJ: (64, 64)}, r=rank)
    for name in names:
        (folder / "adapters" / name).mkdir(parents=True)
        for file in (folder / str(ranks[name])).iterdir():
            (folder / "adapters" / name / file.name).hardlink_to(file)
    head, words = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n", []
    for start in range(0, len(names), IN_A_MANIFEST):
        some = names[start : start + IN_A_MANIFEST]
        entries = "".join(f"- {{name: {name}, source: ./adapters/{name}}}\n" for name in some)
        (folder / f"set-{start}.yaml").write_text(head + entries)
        words += ["-f", f"set-{start}.yaml"]
    traffic = SyntheticWorkload(parse_popularity("zipf:1.0"), 2 * len(names), request_rate=100.0)
    (folder / "trace.jsonl").write_text("".join(trace_lines(make_requests(names, traffic))))
    words += ["--trace", "trace.jsonl", "--servers", str(servers), "--max-loras", "32", "--to", "servers"]
    began = time.perf_counter()
    argv = [sys.executable, "-m", "lora_cli", "place", *words, "--output", "report.txt"]
    subprocess.run(argv, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    took_s = time.perf_counter() - began
    print("".join((folder / "report.txt").read_text().splitlines(keepends=True)[:4]))
    told(took_s, resource.RUSAGE_CHILDREN)


def told(took_s: float, who: int) -> None:
    """Prints a time beside the goal, and the most memory of a process."""
    memory = resource.getrusage(who).ru_maxrss >> 10
    print(f"{took_s:.1f} s (goal {GOAL_S:.0f} s, {'met' if took_s <= GOAL_S else 'MISSED'}), {memory} MiB")


if __name__ == "__main__":
    main()
