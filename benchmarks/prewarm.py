"""How long a fleet takes to prewarm one set of adapters: a simulation of its nodes, and of the servers they fetch from.

    python benchmarks/prewarm.py                       the table of docs/platform.md
    python benchmarks/prewarm.py --nodes 2000 --origin-gbit 40 --jitter 600 --mirrors 4

A node is one `lora-cli fetch`, with its own numbers: ranges, connections, retries and back-off are those of the
package. A server shares its bandwidth equally among the nodes that download from it, and a node shares its part among
its connections. A node whose fetch fails starts again as a container does: after 10 s, doubled up to 300 s; the ranges
that it has are kept. Not modelled: packets and losses, servers that fail, and how long a disk takes.
"""

import argparse
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from math import ceil, inf

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.capacity_planning import smallest_that_meets
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.fetching.scheduler import RANGE, WINDOW
from lora_cli.settings import Settings
from lora_cli.sources.retries import SLOWEST_BYTES_PER_S, backoff_s

GOAL_S, GOAL_NODES = 60.0, 10_000
GBIT = 1e9 / 8
MIB = 1 << 20
DEFAULTS = Settings(ROOT)
RESTART_S, LONGEST_RESTART_S = 10.0, 300.0
"""The pauses of the kubelet before a container that failed: CrashLoopBackOff."""
SMALL_BYTES = 1000
"""A listing, or an adapter_config.json."""


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """``adapters`` of ``size`` bytes; ``small`` requests of each come before its weights."""

    adapters: int = 10
    size: int = 40 * MIB
    small: int = 2

    @property
    def requests(self) -> int:
        """The requests of a node that nothing is refused to."""
        return self.adapters * (self.small + ceil(self.size / RANGE))

    def first(self, adapter: int) -> "list[_Request]":
        """The first requests for an adapter: small ones follow each other, and then come all ranges."""
        sizes = [min(RANGE, self.size - start) for start in range(0, self.size, RANGE)]
        then = [_Request(adapter, float(size)) for size in sizes]
        for _ in range(self.small):
            then = [_Request(adapter, float(SMALL_BYTES), then)]
        return then

    @property
    def bytes(self) -> int:
        """The bytes of one node's copy, with listings and configs."""
        return self.adapters * (self.size + self.small * SMALL_BYTES)


@dataclass(frozen=True, slots=True)
class Server:
    """A place that nodes fetch from: what all of them get together, and what it refuses.

    Beyond ``connections`` it answers 503. Beyond ``requests`` in a window of ``window_s`` it answers 429, and says how
    long that window lasts.
    """

    bytes_per_s: float
    connections: float = inf
    requests: float = inf
    window_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The nodes: at most ``bytes_per_s`` each, started within ``jitter_s``; the rest are options of ``fetch``."""

    nodes: int
    bytes_per_s: float = 10 * GBIT
    jitter_s: float = 0.0
    rtt_s: float = 0.002
    jobs: int = DEFAULTS.jobs
    retries: int = DEFAULTS.retries
    timeout_s: float = DEFAULTS.timeout_s
    seed: int = 0

    def connections(self, work: AdapterSet) -> int:
        """How many ranges a node reads at once: one of each file, and more within the window of the scheduler."""
        return min(self.jobs, max(work.adapters, WINDOW // RANGE))


@dataclass(slots=True)
class Served:
    """What one server did: when each of its nodes was complete, and what it cost."""

    finished_s: list[float] = field(default_factory=list)
    fetch_s: list[float] = field(default_factory=list)
    bytes: float = 0.0
    requests: int = 0
    refused: int = 0
    slow: int = 0
    restarts: int = 0


@dataclass(slots=True)
class _Request:
    """A request, the bytes that its answer still has, and the requests that come ``then``."""

    adapter: int
    left: float
    then: "list[_Request]" = field(default_factory=list)
    failures: int = 0
    slow: int = 0


@dataclass(slots=True)
class _Node:
    """One node: what it has still to ask for, and its open answers by the bytes per connection at which they end."""

    start_s: float
    queue: deque[_Request]
    open: list[tuple[float, int, _Request]] = field(default_factory=list)
    failed: list[_Request] = field(default_factory=list)
    waiting: int = 0
    part: float = 0.0
    """Bytes that each of its connections had so far."""
    seen: float = 0.0
    """The server's share at that moment."""
    version: int = 0
    checked: float = 0.0
    check_s: float = 0.0
    restarts: int = 0


class _Simulation:
    """One server and its nodes. ``share`` is how many bytes a node had that downloaded from the start on."""

    def __init__(self, server: Server, fleet: Fleet, work: AdapterSet, starts: Sequence[float]) -> None:
        self._server, self._fleet, self._most = server, fleet, fleet.connections(work)
        least = server.bytes_per_s / max(len(starts), 1) / self._most
        self._may_be_slow = min(least, fleet.bytes_per_s / self._most) < SLOWEST_BYTES_PER_S
        self._now = self._share = self._window_ends = 0.0
        self._active = self._connections = self._number = self._in_window = 0
        self._timed: list[tuple[float, int, str, int, list[_Request]]] = []
        self._ends: list[tuple[float, int, int]] = []
        self._nodes = [
            _Node(start, deque(one for adapter in range(work.adapters) for one in work.first(adapter)))
            for start in starts
        ]
        self.served = Served([inf] * len(starts), [inf] * len(starts))
        for number, start in enumerate(starts):
            self._at(start, "start", number)

    def run(self) -> Served:
        """Everything that happens, in the order of time."""
        while self._timed or self._ends:
            while self._ends and self._ends[0][2] != self._nodes[self._ends[0][1]].version:
                heappop(self._ends)
            rate = min(self._fleet.bytes_per_s, self._server.bytes_per_s / self._active) if self._active else 0.0
            end = self._now + max(self._ends[0][0] - self._share, 0.0) / rate if self._ends else inf
            if not self._timed and end == inf:
                break
            if not self._timed or end <= self._timed[0][0]:
                self._share, self._now = max(self._share, self._ends[0][0]), end
                self._complete(heappop(self._ends)[1])
            else:
                at, _, what, number, requests = heappop(self._timed)
                self._share += rate * (at - self._now)
                self._now = at
                getattr(self, f"_{what}")(number, requests)
        return self.served

    def _at(self, seconds: float, what: str, number: int, requests: list[_Request] | None = None) -> None:
        self._number += 1
        heappush(self._timed, (seconds, self._number, what, number, requests or []))

    def _start(self, number: int, _requests: list[_Request]) -> None:
        self._ask(number)

    def _ask(self, number: int) -> None:
        """Send requests while there are connections; a node without any is done, or starts again."""
        node = self._nodes[number]
        count = min(self._most - len(node.open) - node.waiting, len(node.queue))
        if count > 0:
            node.waiting += count
            asked = [node.queue.popleft() for _ in range(count)]
            self._at(self._now + self._fleet.rtt_s, "answer", number, asked)
        elif not node.open and not node.waiting:
            if not node.failed:
                self.served.finished_s[number], self.served.fetch_s[number] = self._now, self._now - node.start_s
                return
            pause_s = min(RESTART_S * 2.0**node.restarts, LONGEST_RESTART_S)
            node.restarts += 1
            self.served.restarts += 1
            node.queue = deque(replace(one, failures=0, slow=0) for one in node.failed)
            node.failed = []
            self._at(self._now + pause_s, "start", number)

    def _answer(self, number: int, requests: list[_Request]) -> None:
        """The server begins to send these, or refuses them."""
        node, server = self._nodes[number], self._server
        self._settle(node)
        for one in requests:
            self.served.requests += 1
            if self._now >= self._window_ends:
                self._window_ends, self._in_window = self._now + server.window_s, 0
            if self._in_window >= server.requests:
                self._refuse(number, one, self._window_ends - self._now)
            elif self._connections >= server.connections:
                self._refuse(number, one, None)
            else:
                self._in_window += 1
                self._connections += 1
                node.waiting -= 1
                if not node.open:
                    self._active += 1
                    self._check_later(number)
                self._number += 1
                heappush(node.open, (node.part + one.left, self._number, one))
        self._schedule(number)
        self._ask(number)

    def _refuse(self, number: int, request: _Request, asked_s: float | None) -> None:
        self.served.refused += 1
        self._again(number, request, asked_s)

    def _again(self, number: int, request: _Request, asked_s: float | None) -> None:
        """What ``Retries`` does: wait and try again, or give up, and with it the adapter's other ranges."""
        node = self._nodes[number]
        request.failures += 1
        wait_s = backoff_s(request.failures, asked_s)
        if request.failures <= self._fleet.retries and wait_s is not None:
            self._at(self._now + wait_s, "answer", number, [request])
            return
        node.waiting -= 1
        node.failed.append(request)
        node.failed += [one for one in node.queue if one.adapter == request.adapter]
        node.queue = deque(one for one in node.queue if one.adapter != request.adapter)

    def _complete(self, number: int) -> None:
        """The answers that end now."""
        node = self._nodes[number]
        self._settle(node)
        while node.open and node.open[0][0] <= node.part + 0.5:
            one = heappop(node.open)[2]
            node.queue.extend(one.then)
            self._connections -= 1
            self.served.bytes += one.left
            if not node.open:
                self._active -= 1
        self._schedule(number)
        self._ask(number)

    def _check(self, number: int, _requests: list[_Request]) -> None:
        """Connections that had less than 1 KiB/s since the last look are given up, with what they have."""
        node = self._nodes[number]
        if not node.open or self._now < node.check_s:
            return
        self._settle(node)
        if node.part - node.checked < SLOWEST_BYTES_PER_S * self._fleet.timeout_s:
            open, node.open = node.open, []
            self._active -= 1
            for end, _, one in open:
                self._connections -= 1
                self.served.slow += 1
                self.served.bytes += one.left - (end - node.part)
                one.left = end - node.part
                node.waiting += 1
                one.failures = max(one.failures, one.slow)
                one.slow += 1
                self._again(number, one, None)
            self._schedule(number)
            self._ask(number)
            return
        for _, _, one in node.open:
            one.failures = one.slow = 0
        self._check_later(number)

    def _check_later(self, number: int) -> None:
        node = self._nodes[number]
        if self._may_be_slow:
            node.checked, node.check_s = node.part, self._now + self._fleet.timeout_s
            self._at(node.check_s, "check", number)

    def _settle(self, node: _Node) -> None:
        """Give the connections of a node what came since it was last looked at."""
        if node.open:
            node.part += (self._share - node.seen) / len(node.open)
        node.seen = self._share

    def _schedule(self, number: int) -> None:
        node = self._nodes[number]
        node.version += 1
        if node.open:
            heappush(self._ends, (node.seen + (node.open[0][0] - node.part) * len(node.open), number, node.version))


def serve(server: Server, fleet: Fleet, work: AdapterSet, starts: Sequence[float]) -> Served:
    """The course of all nodes of one server, which start at these seconds; the same seed gives the same course."""
    before = random.getstate()
    random.seed(fleet.seed)
    try:
        return _Simulation(server, fleet, work, starts).run()
    finally:
        random.setstate(before)


@dataclass(frozen=True, slots=True)
class Prewarmed:
    """When the nodes were complete, how long each fetched, and what the origin did."""

    finished_s: Sequence[float]
    fetch_s: Sequence[float]
    origin: Served
    bound_s: float
    """No way through the same servers is faster: the bytes of all nodes at their whole bandwidth."""


def prewarm(origin: Server, fleet: Fleet, work: AdapterSet, *, mirrors: int = 0, peers: int = 0) -> Prewarmed:
    """All nodes fetch from the origin; from ``mirrors`` that fetched before; or from each other.

    Nodes are dealt out to mirrors in turn. With ``peers`` they are a tree: ``peers`` nodes fetch from the origin, and
    each node that is complete serves as many others with the bandwidth of a node. Mirrors are like the origin, and
    refuse nothing.
    """
    draw = random.Random(fleet.seed)
    starts = [draw.random() * fleet.jitter_s for _ in range(fleet.nodes)]
    total = fleet.nodes * work.bytes
    if peers:
        return _tree(origin, fleet, work, starts, peers)
    if not mirrors:
        served = serve(origin, fleet, work, starts)
        lone_s = work.bytes / min(fleet.bytes_per_s, origin.bytes_per_s)
        return Prewarmed(served.finished_s, served.fetch_s, served, max(total / origin.bytes_per_s, lone_s))
    filled = serve(origin, replace(fleet, nodes=mirrors, bytes_per_s=origin.bytes_per_s), work, [0.0] * mirrors)
    mirror = Server(origin.bytes_per_s)
    finished, fetched = [0.0] * fleet.nodes, [0.0] * fleet.nodes
    for number in range(mirrors):
        own = range(number, fleet.nodes, mirrors)
        ready = [max(starts[node], filled.finished_s[number]) for node in own]
        served = serve(mirror, fleet, work, ready)
        for node, at in zip(own, served.finished_s, strict=True):
            finished[node], fetched[node] = at, at - starts[node]
    bound_s = mirrors * work.bytes / origin.bytes_per_s + total / mirrors / origin.bytes_per_s
    return Prewarmed(finished, fetched, filled, bound_s)


def _tree(origin: Server, fleet: Fleet, work: AdapterSet, starts: Sequence[float], peers: int) -> Prewarmed:
    """Node ``i`` of the tree serves the nodes from ``peers * (i + 1)`` on."""
    peer = Server(fleet.bytes_per_s)
    root = serve(origin, fleet, work, starts[:peers])
    finished, fetched = [*root.finished_s], [*root.fetch_s]
    for parent in range(fleet.nodes):
        first = peers * (parent + 1)
        children = starts[first : first + peers]
        if not children:
            break
        served = serve(peer, fleet, work, [max(start, finished[parent]) for start in children])
        finished += served.finished_s
        fetched += [at - start for at, start in zip(served.finished_s, children, strict=True)]
    levels, filled = 0, 0
    while filled < fleet.nodes:
        levels, filled = levels + 1, filled + peers ** (levels + 1)
    lone_s = work.bytes / min(fleet.bytes_per_s, origin.bytes_per_s)
    return Prewarmed(finished[: fleet.nodes], fetched[: fleet.nodes], root, levels * lone_s)


HEADER = (
    f"{'':44} {'last node':>10} {'median fetch':>13} {'p99 fetch':>10} {'refused':>9} {'restarts':>9} {'origin':>9}"
)


def line(name: str, found: Prewarmed) -> str:
    """One row: the last node, the fetch of a node, and what the origin refused and sent."""
    fetch = sorted(found.fetch_s)
    last, median, p99 = (
        _time(one) for one in (max(found.finished_s), nearest_rank(fetch, 0.5), nearest_rank(fetch, 0.99))
    )
    origin = found.origin
    sent = f"{origin.bytes / 1e12:.3g} TB"
    return f"{name:44} {last:>10} {median:>13} {p99:>10} {origin.refused:>9} {origin.restarts:>9} {sent:>9}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


WORK = AdapterSet()
ROWS: tuple[tuple[str, int, Server, dict[str, float], dict[str, int]], ...] = (
    ("origin of 10 Gbit/s", 1, Server(10 * GBIT), {}, {}),
    ("  10 min of jitter", 1, Server(10 * GBIT), {"jitter_s": 600.0}, {}),
    ("  60 min of jitter", 1, Server(10 * GBIT), {"jitter_s": 3600.0}, {}),
    ("  16 mirrors", 1, Server(10 * GBIT), {}, {"mirrors": 16}),
    ("  100 mirrors", 1, Server(10 * GBIT), {}, {"mirrors": 100}),
    ("  a tree of peers, 2 from each", 1, Server(10 * GBIT), {}, {"peers": 2}),
    ("  a tree of peers, 4 from each", 1, Server(10 * GBIT), {}, {"peers": 4}),
    ("  a tree of peers, 16 from each", 1, Server(10 * GBIT), {}, {"peers": 16}),
    ("origin of 1000 Gbit/s", 1, Server(1000 * GBIT), {}, {}),
    ("  a tree of peers, 4 from each", 1, Server(1000 * GBIT), {}, {"peers": 4}),
    ("a tenth of the nodes, origin of 1 Gbit/s", 10, Server(GBIT), {}, {}),
    ("  1,000 connections", 10, Server(GBIT, 1000), {}, {}),
    ("  1,000 connections, --retries 100", 10, Server(GBIT, 1000), {"retries": 100}, {}),
    ("  1,000 connections, --jobs 1", 10, Server(GBIT, 1000), {"jobs": 1}, {}),
    ("  1,000 connections, 60 min of jitter", 10, Server(GBIT, 1000), {"jitter_s": 3600.0}, {}),
    ("  12,000 requests in 5 min", 10, Server(GBIT, requests=12_000), {}, {}),
    ("  12,000 requests in 5 min, 30 mirrors", 10, Server(GBIT, requests=12_000), {}, {"mirrors": 30}),
)
"""The table of docs/platform.md: nodes of 10 Gbit/s and 10 adapters of 40 MiB."""


def scenarios(nodes: int) -> Iterator[tuple[str, Prewarmed]]:
    """Each row of the table; some have only a part of the nodes."""
    for name, part, origin, options, ways in ROWS:
        yield name, prewarm(origin, replace(Fleet(nodes // part), **options), WORK, **ways)  # type: ignore[arg-type]


def break_even(origin: Server, peers: int = 4) -> int:
    """From so many nodes on a tree of peers is faster than an origin that refuses nothing."""

    def wins(nodes: int) -> bool:
        fleet, work = Fleet(nodes), AdapterSet(adapters=1)
        trees = prewarm(origin, fleet, work, peers=peers)
        return max(trees.finished_s) < max(prewarm(origin, fleet, work).finished_s)

    return smallest_that_meets(1, GOAL_NODES, wins)


def main() -> None:
    """Prints the table, or the one row that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=GOAL_NODES, help="how many (10000)")
    parser.add_argument("--adapters", type=int, default=10, help="adapters of the set (10)")
    parser.add_argument("--size", type=float, default=40, help="MiB of each (40)")
    parser.add_argument("--origin-gbit", type=float, help="Gbit/s of the origin and of each mirror")
    parser.add_argument("--node-gbit", type=float, default=10, help="Gbit/s of a node (10)")
    parser.add_argument("--connections", type=float, default=inf, help="the origin answers 503 beyond so many")
    parser.add_argument("--rate-limit", type=float, default=inf, help="requests in 5 minutes; 429 beyond")
    parser.add_argument("--jitter", type=float, default=0, help="seconds within which the nodes start (0)")
    parser.add_argument("--mirrors", type=int, default=0, help="mirrors that are filled first")
    parser.add_argument("--peers", type=int, default=0, help="nodes that each complete node serves")
    parser.add_argument("--jobs", type=int, default=DEFAULTS.jobs, help=f"as of fetch ({DEFAULTS.jobs})")
    parser.add_argument("--retries", type=int, default=DEFAULTS.retries, help=f"as of fetch ({DEFAULTS.retries})")
    parser.add_argument("--seed", type=int, default=0, help="of starts and back-off (0)")
    asked = parser.parse_args()
    began = time.perf_counter()
    print(HEADER)
    if asked.origin_gbit is None:
        for name, found in scenarios(asked.nodes):
            print(f"{line(name, found)}  {time.perf_counter() - began:6.1f} s", flush=True)
        for times in (1, 10, 100):
            nodes = break_even(Server(times * 10 * GBIT))
            print(f"an origin with {times} times a node's bandwidth: a tree of 4 is faster from {nodes} nodes on")
    else:
        origin = Server(asked.origin_gbit * GBIT, asked.connections, asked.rate_limit)
        fleet = Fleet(
            asked.nodes, asked.node_gbit * GBIT, asked.jitter, jobs=asked.jobs, retries=asked.retries, seed=asked.seed
        )
        work = AdapterSet(asked.adapters, ceil(asked.size * MIB))
        found = prewarm(origin, fleet, work, mirrors=asked.mirrors, peers=asked.peers)
        print(line(f"{asked.nodes} nodes", found))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{time.perf_counter() - began:.1f} s (goal {GOAL_S:.0f} s for one row of {GOAL_NODES} nodes), {memory} MiB")


if __name__ == "__main__":
    main()
