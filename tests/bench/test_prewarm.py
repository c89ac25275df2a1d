"""benchmarks/prewarm.py: what holds for every fleet, and a small one beside real fetches from a real server."""

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any

import pytest

from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.core.reference import AdapterRef
from lora_cli.fetching.batch import fetch_all
from lora_cli.fetching.scheduler import RANGE
from lora_cli.settings import Settings
from lora_cli.store import Store
from tests.making import write_adapter

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import prewarm

pytestmark = pytest.mark.slow

MB = 1e6
SET = prewarm.AdapterSet(adapters=3, size=9 << 20)
FLEET = prewarm.Fleet(24, bytes_per_s=200 * MB)
ORIGIN = prewarm.Server(100 * MB)
WAYS: list[dict[str, int]] = [{}, {"mirrors": 3}, {"peers": 2}]


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("jitter_s", [0.0, 30.0])
def test_every_node_is_complete_and_none_before_its_bytes_can_be_there(ways: dict[str, int], jitter_s: float) -> None:
    found = prewarm.prewarm(ORIGIN, replace(FLEET, jitter_s=jitter_s), SET, **ways)
    assert len(found.finished_s) == FLEET.nodes
    assert found.bound_s <= max(found.finished_s) < inf
    assert min(found.fetch_s) >= SET.bytes / FLEET.bytes_per_s
    copies = next(iter(ways.values()), FLEET.nodes)
    assert found.origin.bytes == pytest.approx(copies * SET.bytes, abs=1)
    assert found.origin.requests == copies * SET.requests


def test_a_herd_takes_as_long_as_its_bytes() -> None:
    found = prewarm.prewarm(ORIGIN, FLEET, SET)
    assert max(found.finished_s) == pytest.approx(found.bound_s, rel=0.01)


def test_a_seed_gives_the_same_course_and_other_draws_are_not_disturbed() -> None:
    fleet, server = replace(FLEET, jitter_s=9.0), replace(ORIGIN, connections=30)
    random.seed(7)
    first = prewarm.prewarm(server, fleet, SET)
    assert random.random() == random.Random(7).random()
    assert prewarm.prewarm(server, fleet, SET) == first
    assert prewarm.prewarm(server, replace(fleet, seed=1), SET) != first


@pytest.mark.parametrize("ways", WAYS)
def test_more_bandwidth_is_never_slower(ways: dict[str, int]) -> None:
    last = [max(prewarm.prewarm(prewarm.Server(m * MB), FLEET, SET, **ways).finished_s) for m in (50, 100, 200, 400)]
    assert last == sorted(last, reverse=True)


def test_refused_connections_come_again_and_what_gives_up_starts_again() -> None:
    few = replace(ORIGIN, connections=10)
    patient = prewarm.prewarm(few, replace(FLEET, retries=100), SET)
    assert patient.origin.refused > 0
    assert patient.origin.restarts == 0
    hasty = prewarm.prewarm(few, replace(FLEET, retries=0), SET)
    assert hasty.origin.restarts > 0
    assert hasty.origin.bytes == pytest.approx(FLEET.nodes * SET.bytes, abs=1)
    assert max(hasty.finished_s) >= prewarm.RESTART_S


def test_a_limit_of_requests_lets_so_many_through_a_window() -> None:
    limited = replace(ORIGIN, requests=100, window_s=60.0)
    found = prewarm.prewarm(limited, replace(FLEET, retries=100), SET)
    windows = -(-FLEET.nodes * SET.requests // 100)
    assert (windows - 1) * 60 <= max(found.finished_s) < (windows + 6) * 60
    assert found.origin.bytes == pytest.approx(FLEET.nodes * SET.bytes, abs=1)


def test_connections_that_trickle_are_given_up_with_what_they_have() -> None:
    trickle = prewarm.Server(24 * 3 * 500.0)
    fleet, work = replace(FLEET, retries=1, jobs=3), prewarm.AdapterSet(adapters=3, size=100_000)
    found = prewarm.prewarm(trickle, fleet, work)
    assert found.origin.slow > 0
    assert found.origin.restarts > 0
    assert found.origin.bytes == pytest.approx(FLEET.nodes * work.bytes, abs=1)


NODES, REAL_RATE = 8, 12 * MB


class _Paced(ThreadingHTTPServer):
    """Sends ``folder`` at ``REAL_RATE`` to all together; more than ``most`` answers at once are 503."""

    daemon_threads = True

    def __init__(self, folder: Path, most: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.most, self.running = folder, most, 0
        self.lock, self.free_s = threading.Lock(), time.monotonic()
        self.requests = self.refused = 0

    def pace(self, size: int) -> None:
        with self.lock:
            self.free_s = max(self.free_s, time.monotonic()) + size / REAL_RATE
            until = self.free_s
        time.sleep(max(0.0, until - time.monotonic()))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that had enough is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Paced

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        server, file = self.server, self.server.folder / self.path.lstrip("/")
        with server.lock:
            server.requests += 1
            full = server.running >= server.most
            server.refused += full
            server.running += not full
        if full:
            self._send(503, {}, b"")
            return
        try:
            content = file.read_bytes() if file.is_file() else b""
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(content)) + 1, len(content))
            part = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}", "ETag": f'"{len(content)}"'}
            self._send(206 if content else 404, part if content else {}, content[start:stop])
        finally:
            with server.lock:
                server.running -= 1

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(body), 16384):
            self.server.pace(len(body[start : start + 16384]))
            self.wfile.write(body[start : start + 16384])


@contextmanager
def _served(folder: Path, most: float) -> Iterator[_Paced]:
    server = _Paced(folder, most)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _fetch(server: _Paced, cache: Path, names: list[str], found: dict[Path, tuple[float, Any]]) -> None:
    place = f"127.0.0.1:{server.server_port}"
    requests = [AdapterRequest(name, AdapterRef("http", f"{place}/{name}")) for name in names]
    settings = Settings(cache, retries=100)
    outcomes = list(fetch_all(requests, Store(cache), settings))
    found[cache] = time.monotonic(), [one.error for one in outcomes]


@pytest.mark.parametrize("most", [inf, 12])
def test_the_simulation_is_near_real_fetches(most: float, tmp_path: Path) -> None:
    """Eight runs of fetch, each into its own cache, beside the simulation; docs/benchmarks.md has the error."""
    names = ["sql", "chat"]
    for seed, name in enumerate(names):
        (tmp_path / "site" / name).mkdir(parents=True)
        write_adapter(tmp_path / "site" / name, modules={"model.layers.0.q_proj": (8192, 8192)}, r=96, seed=seed)
    files = [file for name in names for file in sorted((tmp_path / "site" / name).iterdir())]
    weights = max(file.stat().st_size for file in files)
    found: dict[Path, tuple[float, Any]] = {}
    with _served(tmp_path / "site", most) as server:
        began = time.monotonic()
        threads = [
            threading.Thread(target=_fetch, args=(server, tmp_path / f"cache-{number}", names, found))
            for number in range(NODES)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [errors for _, errors in found.values()] == [[None, None]] * NODES
    real = sorted(at - began for at, _ in found.values())
    ranges = -(-weights // RANGE)
    small = round((server.requests - server.refused) / NODES / len(names)) - ranges
    work = prewarm.AdapterSet(len(names), weights, small)
    fleet = prewarm.Fleet(NODES, bytes_per_s=inf, retries=100)
    runs = [prewarm.prewarm(prewarm.Server(REAL_RATE, most), replace(fleet, seed=seed), work) for seed in range(5)]
    last = sum(max(one.finished_s) for one in runs) / len(runs)
    refused = sum(one.origin.refused for one in runs) / len(runs)
    error = last / real[-1] - 1
    print(f"{NODES} nodes x {work.bytes / MB:.1f} MB, {real[-1]:.2f} s: simulated {last:.2f} s, {error:+.1%}")
    print(f"{server.requests} requests, {server.refused} refused: simulated {refused:.0f}")
    assert last == pytest.approx(real[-1], rel=0.35)
    assert (refused > 0) == (server.refused > 0)
