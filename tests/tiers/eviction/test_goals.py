"""What ``adaptive`` promises, on seeds and families that its parameters were not chosen by.

The margins are printed (``pytest -s``). Hit ratios are from an empty tier on, so the first loads are among the misses.
"""

from dataclasses import dataclass
from functools import cache
from statistics import mean

import pytest

from lora_cli.bench.optimal_bounds import belady
from lora_cli.bench.popularity import parse_popularity
from lora_cli.tiers.eviction import PolicyName
from lora_cli.tiers.memory_accounting import Budget
from tests.slow import slowly
from tests.tiers.eviction.families import ADAPTERS, CHOSEN, HELD_OUT, NAMES, SEEN
from tests.tiers.eviction.replaying import replay

pytestmark = pytest.mark.slow

SEEDS = (21, 22)
LONG, SHORT = 20_000, 8_000
FAMILIES = {**CHOSEN, **SEEN, **HELD_OUT}
NOISE, NOISE_OF_ONE_TRACE = 0.005, 0.025
"""Points of hit ratio below LRU that are none: on the mean of the seeds, and on each of them."""


@dataclass(frozen=True, slots=True)
class Ratios:
    """Hit ratios on one trace."""

    lru: float
    adaptive: float
    best: float


@cache
def ratios(name: str, slots: int, seed: int, requests: int) -> Ratios:
    trace, budget = FAMILIES[name](requests, seed), Budget(slots)
    lru, adaptive = (replay(trace, budget, policy, objective="hits").hits / requests for policy in ("lru", "adaptive"))
    return Ratios(lru, adaptive, sum(belady(trace, slots)[0]) / requests)


@pytest.mark.parametrize("slots", slowly((8, 32), 8))
@pytest.mark.parametrize("popularity", ["zipf:0.8", "zipf:1.0", "zipf:1.2"])
def test_nine_tenths_of_the_way_to_what_demand_caching_can_reach(popularity: str, slots: int) -> None:
    """With the most popular C - 1 always here; the last slot is for whoever comes."""
    found = ratios(popularity, slots, SEEDS[0], LONG)
    shares = parse_popularity(popularity).weights(NAMES)
    reachable = sum(shares[: slots - 1]) / sum(shares)
    part = (found.adaptive - found.lru) / (reachable - found.lru)
    print(f"{popularity} on {slots}: {found.lru:.3f} {found.adaptive:.3f} of {reachable:.3f}, {part:.0%}")
    assert part >= 0.9


@pytest.mark.parametrize("slots", slowly((8, 32), 8))
@pytest.mark.parametrize("name", ["drift", "reshuffle", "scan"])
def test_half_of_the_gap_to_the_best_there_is(name: str, slots: int) -> None:
    for seed in SEEDS:
        found = ratios(name, slots, seed, LONG)
        closed = (found.adaptive - found.lru) / (found.best - found.lru)
        print(f"{name} on {slots}: {found.lru:.3f} {found.adaptive:.3f} of {found.best:.3f}, {closed:.0%}")
        assert closed >= 0.5


@pytest.mark.parametrize("slots", slowly((8, 32), 8))
@pytest.mark.parametrize("name", FAMILIES)
def test_never_below_lru(name: str, slots: int) -> None:
    """What has been run above counts here too; the families nothing was chosen by run shorter traces."""
    seeds = SEEDS[:1] if name.startswith(("zipf", "sessions")) else SEEDS
    requests = LONG if name in CHOSEN else SHORT
    found = [ratios(name, slots, seed, requests) for seed in seeds]
    above = [one.adaptive - one.lru for one in found]
    print(f"{name} on {slots}: {', '.join(f'{one:+.4f}' for one in above)} above LRU")
    assert min(above) >= -NOISE_OF_ONE_TRACE
    assert mean(above) >= -NOISE


@pytest.mark.parametrize("name", ["zipf:1.0", "sessions-64x5"])
def test_time_lost_to_loads_is_less_than_with_any_one_policy_where_sizes_differ(name: str) -> None:
    """Ranks from 8 to 128 in a twentieth of all bytes, and NVMe. The best fixed policy differs with the traffic."""
    trace = CHOSEN[name](12_000, SEEDS[1])
    ranks = {key: (8, 16, 32, 64, 128)[int(key[1:]) * 7 % 5] for key in set(trace)}

    def weigh(key: str) -> int:
        return ranks[key] * 5_242_880

    def lost(policy: PolicyName) -> float:
        budget = Budget(ADAPTERS, 131_000_000_000 // 20)
        return replay(trace, budget, policy, weigh=weigh, cost_ms=lambda key: 2 + weigh(key) / 7e6).cost_ms

    lru, lfu, gdsf, adaptive = (lost(policy) / len(trace) for policy in ("lru", "lfu", "gdsf", "adaptive"))
    print(f"{name}: ms a request: lru {lru:.1f}, lfu {lfu:.1f}, gdsf {gdsf:.1f}, adaptive {adaptive:.1f}")
    assert adaptive <= 1.02 * min(lru, lfu, gdsf)
