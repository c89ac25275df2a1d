"""How late ``serve-bench --url`` is at 200 requests a second, against a server that does next to nothing.

    python benchmarks/load.py [--rate 200] [--seconds 10] [--seeds 3] [--output-len 4]

The goal is at most 5 ms at p99. Beside it, at the same time, a process that sleeps until the same moments and does
nothing else: what it is late by is the machine's, and no generator can do better.
"""

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.live.load_generator import LoadTest, run_load
from lora_cli.bench.live.requests import RequestResult, prepare_requests
from lora_cli.bench.live.target import find_target
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.quantiles import nearest_rank

from lora_cli.bench.trace import Trace
from lora_cli.bench.workload import Lengths, SyntheticWorkload, make_requests
from lora_cli.endpoint.address import parse_address
from tests.bench.null_server import NullServer

GOAL_MS = 5.0
SHARES = (0.5, 0.99, 1.0)


def main() -> None:
    """Prints the lateness of each seed beside that of a sleeper, and the processor time of a request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output-len", type=int, default=4)
    parser.add_argument("--sleep", type=int, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.sleep is not None:
        print(*asyncio.run(_slept(_trace(asked, asked.sleep, ["a0"]))))
        return
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {asked.rate:g} requests a second", flush=True)
    missed = 0
    with NullServer("--adapters", 50) as server:
        for seed in range(asked.seeds):
            missed += _one(asked, seed, server)
    print(f"goal {GOAL_MS:g} ms at p99: {'met' if not missed else f'MISSED by {missed} of {asked.seeds} seeds'}")


def _trace(asked: argparse.Namespace, seed: int, names: Sequence[str]) -> Trace:
    length = Lengths(asked.output_len, asked.output_len)
    number = int(asked.rate * asked.seconds)
    traffic = SyntheticWorkload(parse_popularity("zipf:1.0"), number, seed, request_rate=asked.rate, output_len=length)
    return make_requests(names, traffic)


def _one(asked: argparse.Namespace, seed: int, server: NullServer) -> bool:
    """One seed; whether the goal is missed."""
    target = find_target(parse_address(server.url), "", [])
    load = prepare_requests(_trace(asked, seed, list(target.models)), target.models, seed, 1000)
    course: list[RequestResult] = []
    command = [sys.executable, __file__, "--sleep", str(seed), "--rate", str(asked.rate), "--seconds"]
    with subprocess.Popen([*command, str(asked.seconds)], stdout=subprocess.PIPE, text=True) as sleeper:
        before = _processor_s()
        run_load(LoadTest(target.address, "", load), course)
        each_ms = (_processor_s() - before) / len(load) * 1e3
        assert sleeper.stdout is not None
        slept = [float(word) for word in sleeper.stdout.read().split()]
    late = sorted((one.woke_s - one.scheduled_s) * 1e3 for one in course)
    ours = [nearest_rank(late, share) for share in SHARES]
    failed = sum(bool(one.error) for one in course)
    told = [", ".join(f"{one:.2f}" for one in values) for values in (ours, slept)]
    print(
        f"seed {seed}: {len(late)} requests, {failed} failed, {each_ms:.2f} ms of a processor each; late"
        f" (p50, p99, max) {told[0]} ms; who only sleeps {told[1]} ms",
        flush=True,
    )
    return ours[1] > GOAL_MS


async def _slept(trace: Trace) -> list[float]:
    begin = time.perf_counter()
    late = []
    for time_s in trace.times_s:
        await asyncio.sleep(max(begin + time_s - time.perf_counter(), 0))
        late.append((time.perf_counter() - begin - time_s) * 1e3)
    late.sort()
    return [nearest_rank(late, share) for share in SHARES]


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
