"""A trace replayed over the state of two tiers, slots over memory over disk, as the warm process keeps them.

A request that finds its adapter in no slot has it put there from memory; one that is not in memory either is read from
disk before. Memory is asked only then, so each tier has its own history, and what is in a slot may leave memory.
The policies are those of the tiers, FIFO, and the best that there could be. All adapters and their loads count alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import accumulate, pairwise

from lora_cli.bench.random_streams import RandomStream
from lora_cli.bench.report import PolicyKind, PolicyReport
from lora_cli.errors import UsageError
from lora_cli.text import did_you_mean
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
    """What slots and memory hold."""

    gpu: Budget
    cpu: Budget


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


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """A simulation: the tier that each request found its adapter in.

    ``evictions`` counts evictions from slots and from memory.
    """

    found: bytearray
    evictions: tuple[int, int] = (0, 0)


def simulate(keys: Sequence[str], fleet: Fleet, policy: str) -> SimulatedRun:
    """Replay the requests over empty tiers."""
    gpu, cpu = (
        new_ledger(ONLINE_POLICIES[policy], name, budget) for name, budget in (("gpu", fleet.gpu), ("cpu", fleet.cpu))
    )
    found = bytearray(len(keys))
    for number, key in enumerate(keys):
        if key in gpu:
            gpu.hit(key)
            continue
        found[number] = CPU if key in cpu else DISK
        gpu.request(key, 1)
        cpu.request(key, 1)
    return SimulatedRun(found, (gpu.counts().evictions, cpu.counts().evictions))


WINDOWS = 40
"""Parts of the trace whose hit ratios are reported."""


def run_report(kind: PolicyKind, course: SimulatedRun) -> PolicyReport:
    """One policy, without the gap that it closes: it is known once all policies are done."""
    requests = len(course.found)
    hits_by_tier = dict(zip(("gpu", "cpu", "disk"), (course.found.count(place) for place in range(3)), strict=True))
    return PolicyReport(
        kind=kind,
        requests=requests,
        hits=hits_by_tier["gpu"],
        hit_ratio=hits_by_tier["gpu"] / (requests or 1),
        hits_by_tier=hits_by_tier,
        evictions=dict(zip(("gpu", "cpu"), course.evictions, strict=True)),
        gap_closed=None,
        hit_ratio_over_time=_over_time(course.found),
    )


def _over_time(found: bytearray) -> tuple[float, ...]:
    """The hit ratio of each window, in order; of a short trace there are as many windows as requests."""
    windows = min(WINDOWS, len(found))
    edges = [len(found) * number // windows for number in range(windows + 1)] if windows else []
    return tuple(found[first:last].count(GPU) / (last - first) for first, last in pairwise(edges))
