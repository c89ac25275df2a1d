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
from math import ceil

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.client import Answer, Load, find_target, run_load
from lora_cli.bench.workload import Request, Workload, make_requests
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
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
        print(*asyncio.run(_slept([one.time_s or 0.0 for one in _requests(asked, asked.sleep, ["a0"])])))
        return
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {asked.rate:g} requests a second", flush=True)
    missed = 0
    with NullServer("--adapters", 50) as server:
        for seed in range(asked.seeds):
            missed += _one(asked, seed, server)
    print(f"goal {GOAL_MS:g} ms at p99: {'met' if not missed else f'MISSED by {missed} of {asked.seeds} seeds'}")


def _requests(asked: argparse.Namespace, seed: int, names: Sequence[str]) -> Sequence[Request]:
    number, length = int(asked.rate * asked.seconds), (asked.output_len, asked.output_len)
    return make_requests(names, Workload(1.0, number, seed, asked.rate, output_len=length))


def _one(asked: argparse.Namespace, seed: int, server: NullServer) -> bool:
    """One seed; whether the goal is missed."""
    target = find_target(Endpoint(parse_address(server.url)))
    requests = _requests(asked, seed, target.adapters)
    answers: list[Answer] = []
    command = [sys.executable, __file__, "--sleep", str(seed), "--rate", str(asked.rate), "--seconds"]
    with subprocess.Popen([*command, str(asked.seconds)], stdout=subprocess.PIPE, text=True) as sleeper:
        before = _processor_s()
        run_load(Load(target, requests), answers)
        each_ms = (_processor_s() - before) / len(requests) * 1e3
        assert sleeper.stdout is not None
        slept = [float(word) for word in sleeper.stdout.read().split()]
    late = sorted(one.late_s * 1e3 for one in answers)
    ours = _percentiles(late)
    failed = sum(bool(one.error) for one in answers)
    told = [", ".join(f"{one:.2f}" for one in values) for values in (ours, slept)]
    print(
        f"seed {seed}: {len(late)} requests, {failed} failed, {each_ms:.2f} ms of a processor each; late"
        f" (p50, p99, max) {told[0]} ms; who only sleeps {told[1]} ms",
        flush=True,
    )
    return ours[1] > GOAL_MS


def _percentiles(ordered: Sequence[float]) -> list[float]:
    return [ordered[max(ceil(share * len(ordered)) - 1, 0)] for share in SHARES]


async def _slept(times_s: Sequence[float]) -> list[float]:
    begin = time.perf_counter()
    late = []
    for time_s in times_s:
        await asyncio.sleep(max(begin + time_s - time.perf_counter(), 0))
        late.append((time.perf_counter() - begin - time_s) * 1e3)
    late.sort()
    return _percentiles(late)


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
