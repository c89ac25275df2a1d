"""A trace replayed over the state of two tiers, slots over memory over disk, as the warm process keeps them.

A request that finds its adapter in no slot has it put there from memory; one that is not in memory either is read from
disk before. Memory is asked only then, so each tier has its own history, and what is in a slot may leave memory.
The policies are those of the tiers, FIFO, and the best that there could be. A fleet is what is simulated besides the
requests: the adapters' ranks and bytes, the two tiers, and the ways into them.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import accumulate, pairwise
from math import fsum

from lora_cli.bench.link_model import BYTES_PER_RANK, Links, MeasuredLoads
from lora_cli.bench.quantiles import nearest_rank, summary
from lora_cli.bench.random_streams import RandomStream
from lora_cli.bench.report import AdapterBytes, LoadedAdapters, PolicyKind, PolicyReport
from lora_cli.bench.trace import Trace
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.errors import UsageError
from lora_cli.tiers.access_history import History
from lora_cli.tiers.eviction import POLICIES, Lru, new_ledger
from lora_cli.tiers.memory_accounting import Budget, EvictionPolicy

MOST_RANKS, LARGEST_RANK = 100, 100_000
SHARE_SCALE = 10**12


@dataclass(frozen=True, slots=True)
class RankDistribution:
    """Each rank with its part of all adapters; the parts need not add up to 1."""

    shares: tuple[tuple[int, Decimal], ...]

    def of(self, names: Sequence[str], seed: int) -> dict[str, int]:
        """Each adapter's random rank, by its name and the seed alone, so that a replayed trace gets the same."""
        cumulative_weights = list(accumulate(int(share * SHARE_SCALE) for _, share in self.shares))
        return {
            name: self.shares[RandomStream.derive(f"rank {name}", seed).index_by_weight(cumulative_weights)][0]
            for name in names
        }


def parse_ranks(text: str) -> RankDistribution:
    """``8:.4,16:.4,64:.2``; a share that is left out is 1.

    Raises:
        UsageError: it is not one.
    """
    found = []
    for word in text.split(",")[: MOST_RANKS + 1]:
        rank, colon, share = word.partition(":")
        try:
            part = Decimal(share) if colon else Decimal(1)
            good = rank.isascii() and rank.isdecimal() and len(share) <= 20
            if not (good and len(rank) < 7 and 1 <= int(rank) <= LARGEST_RANK and Decimal("1e-9") <= part <= 1_000_000):
                raise _wrong(text)
        except InvalidOperation as error:
            raise _wrong(text) from error
        found.append((int(rank), part))
    if len(found) > MOST_RANKS:
        raise _wrong(text)
    return RankDistribution(tuple(found))


def _wrong(text: str) -> UsageError:
    return UsageError(f"--ranks {text[:60]}: must be ranks and their shares", hint="--ranks 8:.4,16:.4,64:.2")


@dataclass(frozen=True, slots=True)
class Fleet:
    """``sizes`` are bytes by adapter; ``gpu`` and ``cpu`` are what slots and memory hold, and ``start`` at first."""

    sizes: Mapping[str, int]
    gpu: Budget
    cpu: Budget
    links: Links = Links()
    start: LoadedAdapters = field(default_factory=LoadedAdapters)

    def put_ms(self, name: str) -> float:
        """Milliseconds from memory into a slot."""
        return self.links.gpu.load_ms(self.sizes[name])

    def read_ms(self, name: str) -> float:
        """Milliseconds from disk into memory."""
        return self.links.disk.load_ms(self.sizes[name])

    def adapter_bytes(self) -> AdapterBytes:
        """The total, largest and smallest size."""
        sizes = self.sizes.values()
        return AdapterBytes(sum(sizes), max(sizes, default=0), min(sizes, default=0))


def adapter_sizes(
    names: Sequence[str], ranks: RankDistribution, seed: int, bytes_per_rank: int = BYTES_PER_RANK
) -> dict[str, int]:
    """Bytes of each adapter: its rank times ``bytes_per_rank``."""
    return {name: rank * bytes_per_rank for name, rank in ranks.of(names, seed).items()}


OPT = "opt"
"""Belady's policy, which knows the whole trace."""

ONLINE = ("lru", "fifo", "lfu")
POLICY_NAMES = (*ONLINE, OPT)


class Fifo(Lru):
    """First in, first out: what SGLang has besides LRU. For simulations only: it has fewer hits than LRU."""

    def hit(self, key: str) -> None:
        """``key`` stays where it is."""


ONLINE_POLICIES: Mapping[str, Callable[[History], EvictionPolicy]] = {
    **{str(name): make for name, make in POLICIES.items()},
    "fifo": lambda _history: Fifo(),
}
"""The constructor of each online policy, for one tier."""


def parse_policies(text: str) -> tuple[str, ...]:
    """``lru,lfu,opt``, each once, in this order.

    Raises:
        UsageError: there is no such policy.
    """
    found = tuple(dict.fromkeys(word.strip().lower() for word in text.split(",")))
    for word in found:
        if word not in POLICY_NAMES:
            raise UsageError(
                f"--eviction {text[:60]}: unknown policy {word[:30]}", hint=did_you_mean(word, POLICY_NAMES)
            )
    return found


GPU, CPU, DISK = range(3)
LOAD_OF_TIER = {CPU: "warm", DISK: "cold"}


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A simulation: the tier that each request found its adapter in, and the milliseconds of its loads.

    ``evictions`` counts evictions from slots and from memory.
    """

    found: bytearray
    load_ms: "array[float]"
    evictions: tuple[int, int] = (0, 0)


class LoadTimes:
    """The times of the loads of a fleet: measured ones in turn, else the usual ones, which are all that policies know.

    An adapter's first load is of its own kind unless ``fleet.start`` says that it is over.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._measured, self._used = MeasuredLoads(fleet.links), set(fleet.start.used)

    def first_ms(self, key: str) -> float | None:
        """Milliseconds of an adapter's first load; None if it is over, or none was measured."""
        first_ms = self._measured.next_ms("first") if key not in self._used else None
        self._used.add(key)
        return first_ms

    def next_ms(self, key: str, found: int, usual_ms: float) -> float:
        """Milliseconds of the next load, of an adapter that was ``found`` in that tier."""
        first_ms = self.first_ms(key)
        measured_ms = self._measured.next_ms(LOAD_OF_TIER[found]) if first_ms is None else first_ms
        return usual_ms if measured_ms is None else measured_ms


class SimulatedTiers:
    """Slots and memory of a fleet with one eviction policy, which begin with ``fleet.start``.

    With ``touches_memory`` a hit in a slot is one in memory too, as in vLLM (``LRUCacheWorkerLoRAManager``); the warm
    process asks memory only for what is in no slot.
    """

    def __init__(self, fleet: Fleet, policy: str, *, touches_memory: bool = False) -> None:
        self._touches_memory = touches_memory
        self.gpu, self._cpu = (
            new_ledger(ONLINE_POLICIES[policy], name, budget)
            for name, budget in (("gpu", fleet.gpu), ("cpu", fleet.cpu))
        )
        self._sizes = fleet.sizes
        self._put_ms, self._read_ms = (
            {name: cost(name) for name in fleet.sizes} for cost in (fleet.put_ms, fleet.read_ms)
        )
        self._times = LoadTimes(fleet)
        start, largest = fleet.start, max(fleet.sizes.values(), default=1)
        for tier, names in ((self._cpu, start.memory), (self.gpu, start.slots)):
            for name in names:  # also those that nobody requests take room
                tier.admit(name, fleet.sizes.get(name, largest))
                tier.loaded(name, ahead=name not in start.used)  # its proof counts as a request

    def request(self, key: str) -> tuple[int, float]:
        """The tier that an adapter is found in, and the milliseconds until it is in a slot.

        Raises:
            MachineError: it is larger than a tier.
        """
        found, usual_ms = self.put(key)
        return found, 0.0 if found == GPU else self._times.next_ms(key, found, usual_ms)

    def put(self, key: str) -> tuple[int, float]:
        """As ``request``, with the usual milliseconds of the load: no measured one is taken.

        Raises:
            TierBusy: all slots are leased; nothing has changed.
        """
        if key in self.gpu:
            self.gpu.hit(key)
            if self._touches_memory and key in self._cpu:
                self._cpu.hit(key)
            return GPU, 0.0
        size, found = self._sizes[key], CPU if key in self._cpu else DISK
        cost = self._put_ms[key] + (self._read_ms[key] if found == DISK else 0.0)
        self.gpu.request(key, size)
        self._cpu.request(key, size)
        return found, cost

    def first_load_ms(self, key: str) -> float | None:
        """Milliseconds of an adapter's first load, as it was measured; None if it is over."""
        return self._times.first_ms(key)

    def evictions(self) -> tuple[int, int]:
        """Evictions from slots and from memory so far."""
        return self.gpu.counts().evictions, self._cpu.counts().evictions


def simulate(keys: Sequence[str], fleet: Fleet, policy: str) -> SimulatedRun:
    """Replay the requests over tiers that begin with ``fleet.start``.

    Raises:
        MachineError: an adapter is larger than a tier.
    """
    tiers = SimulatedTiers(fleet, policy)
    found, load_ms = bytearray(len(keys)), array("d", bytes(8 * len(keys)))
    for number, key in enumerate(keys):
        found[number], load_ms[number] = tiers.request(key)
    return SimulatedRun(found, load_ms, tiers.evictions())


def stalls_ms(trace: Trace, run: SimulatedRun, *, side_by_side: bool = False) -> "array[float]":
    """Milliseconds of each request, from its arrival until its adapter is in a slot; 0 if it is there.

    Loads run one after the other, in the order of the requests, or ``side_by_side``. Requests for an adapter that is
    being loaded share the load. If the trace has no times, each request arrives when the previous one is done, and
    waits for its own load alone.
    """
    if not trace.timed:
        return run.load_ms
    free_s = 0.0
    loaded_s: dict[int, float] = {}
    stalls = array("d", bytes(8 * len(trace)))
    for number, (which, time_s, load_ms) in enumerate(zip(trace.which, trace.times_s, run.load_ms, strict=True)):
        if load_ms:
            free_s = (time_s if side_by_side else max(free_s, time_s)) + load_ms / 1e3
            loaded_s[which] = free_s
        stalls[number] = max(loaded_s.get(which, 0.0) - time_s, 0.0) * 1e3
    return stalls


WINDOWS = 40
"""Parts of the trace whose hit ratios are reported."""

SHARES = (*(number / 100 for number in range(100)), 0.995, 0.999, 1.0)
"""Where the distribution of stalls is reported."""


def run_report(kind: PolicyKind, course: SimulatedRun, stalls: Sequence[float]) -> PolicyReport:
    """The report of a simulation."""
    counts = dict(zip(("gpu", "cpu", "disk"), (course.found.count(place) for place in range(3)), strict=True))
    evictions = dict(zip(("gpu", "cpu"), course.evictions, strict=True))
    cost_ms, ordered = fsum(course.load_ms), sorted(stalls)
    return policy_report(kind, len(course.found), counts, cost_ms, evictions, ordered, _over_time(course.found))


def policy_report(
    kind: PolicyKind,
    requests: int,
    hits_by_tier: Mapping[str, int],
    miss_cost_ms: float,
    evictions: Mapping[str, int],
    stalls: Sequence[float] = (),
    hit_ratio_over_time: tuple[float, ...] = (),
) -> PolicyReport:
    """One policy, without the gaps that it closes: they are known once all policies are done.

    ``stalls`` has the least first, and is empty if only the hits in slots and the least cost are known.
    """
    return PolicyReport(
        kind=kind,
        requests=requests,
        hits=hits_by_tier["gpu"],
        hit_ratio=hits_by_tier["gpu"] / (requests or 1),
        hits_by_tier=hits_by_tier,
        evictions=evictions,
        miss_cost_ms=miss_cost_ms,
        miss_cost_ms_per_request=miss_cost_ms / (requests or 1),
        stalled=sum(one > 0 for one in stalls),
        stall_ms={name: value for name, value in summary(stalls).items() if value is not None},
        gap_closed=None,
        cost_gap_closed=None,
        hit_ratio_over_time=hit_ratio_over_time,
        stall_cdf_ms=tuple(nearest_rank(stalls, share) for share in SHARES) if stalls else (),
    )


def _over_time(found: bytearray) -> tuple[float, ...]:
    """The hit ratio of each window, in order; of a short trace there are as many windows as requests."""
    windows = min(WINDOWS, len(found))
    edges = [len(found) * number // windows for number in range(windows + 1)] if windows else []
    return tuple(found[first:last].count(GPU) / (last - first) for first, last in pairwise(edges))
