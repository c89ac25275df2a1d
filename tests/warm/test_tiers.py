"""Tiers: what stays, what goes, what is refused, and that LFU that ages is never far from the better policy."""

import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from lora_cli.bench.simulate import tier_hits
from lora_cli.errors import MachineError
from lora_cli.warm import tiers
from lora_cli.warm.tiers import POLICIES, PolicyName, Tier


def tier_of(policy: PolicyName, places: int = 2) -> Tier[str]:
    return Tier("cpu", places, policy)


def ask(tier: Tier[str], *keys: str) -> list[str]:
    """Who left, in order."""
    gone = []
    for key in keys:
        before = tier.contents()
        with tier.lease(key, str, name=key):
            pass
        gone += [one for one in before if not tier.is_loaded(one)]
    return gone


def test_lfu_lets_go_of_who_is_asked_for_least_and_counts_what_was_before_it_was_here() -> None:
    tier = tier_of("lfu")
    assert ask(tier, "a", "a", "a", "b", "c") == ["b"]
    # b has two requests when it is back, then four, and a has three.
    assert ask(tier, "b", "c") == ["c", "b"]
    assert ask(tier, "b", "b", "c") == ["c", "a"]


def test_lfu_forgets_what_was_popular_long_ago() -> None:
    tier = tier_of("lfu")
    ask(tier, *["old"] * 40)
    ask(tier, *["new"] * 30_000)
    assert ask(tier, "x") == ["old"]
    assert ask(tier, *["x"] * 10, "y") == ["x"]


def zipf(count: int, random_: random.Random, shift: int = 0, names: int = 200) -> list[str]:
    weights = [1 / (1 + rank) for rank in range(names)]
    return [f"a{(one + shift) % names}" for one in random_.choices(range(names), weights, k=count)]


REQUESTS: Mapping[str, Callable[[random.Random], list[str]]] = {
    "zipf": lambda one: zipf(30_000, one),
    "drifting": lambda one: [key for part in range(20) for key in zipf(1_500, one, shift=10 * part)],
    "scanned": lambda one: [
        key for part in range(20) for key in (*zipf(1_000, one), *(f"s{500 * part + scan}" for scan in range(500)))
    ],
}


@pytest.mark.parametrize("places", [8, 32, 100])
@pytest.mark.parametrize("requests", REQUESTS)
def test_aged_lfu_has_at_most_two_points_fewer_hits_than_the_better_of_lru_and_lfu(
    requests: str, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = REQUESTS[requests](random.Random(7))

    def hit_ratio(policy: PolicyName) -> float:
        return sum(tier_hits(keys, places, policy)) / len(keys)

    ours, lru = hit_ratio("lfu"), hit_ratio("lru")
    monkeypatch.setattr(tiers, "HALF_LIFE", 1 << 40)
    assert ours >= max(lru, hit_ratio("lfu")) - 0.02


@pytest.mark.parametrize("policy", POLICIES)
def test_m12_what_is_kept_or_leased_stays_and_a_tier_full_of_it_refuses_and_says_why(policy: PolicyName) -> None:
    tier = tier_of(policy)
    tier.kept.add("a")
    ask(tier, "a")
    with tier.lease("b", str), pytest.raises(MachineError, match="all 2 adapters there are in use"):
        ask(tier, "c")
    assert ask(tier, "c", "d") == ["b", "c"]
    tier.kept.add("d")
    with pytest.raises(MachineError, match="all 2 adapters there are kept loaded"):
        ask(tier, "e")
    with tier.lease("a", str):
        tier.discard("a")
        assert tier.is_loaded("a")
    tier.discard("a")
    assert not tier.is_loaded("a")
    assert ask(tier, "e", "f") == ["e"]


def test_a_load_that_fails_leaves_nothing_behind_and_can_be_tried_again() -> None:
    tier: Tier[str] = Tier("cpu", 1, "lru")
    with suppress(ValueError), tier.lease("a", lambda: str(int("no"))):
        raise AssertionError
    assert tier.contents() == {}
    assert ask(tier, "a", "b") == ["a"]
    tier.discard("b")
    tier.discard("never here")
    assert tier.status(len) == {"adapters": 0, "most": 1, "bytes": 0, "hits": 0, "loads": 2, "evictions": 1}


def test_threads_that_ask_for_one_adapter_load_it_once_and_a_hit_elsewhere_does_not_wait() -> None:
    tier, started, go_on, loads = tier_of("lru"), threading.Event(), threading.Event(), list[str]()
    ask(tier, "hot")

    def load() -> str:
        loads.append("slow")
        started.set()
        assert go_on.wait(30)
        return "slow"

    def use() -> str:
        with tier.lease("slow", load) as value:
            return value

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(use) for _ in range(8)]
        assert started.wait(30)
        ask(tier, "hot")
        assert not tier.is_loaded("slow")
        go_on.set()
        assert [one.result(30) for one in asked] == ["slow"] * 8
    assert loads == ["slow"]


def test_who_finds_no_room_waits_for_the_end_of_a_lease() -> None:
    tier = tier_of("lru", 1)

    def wait() -> str:
        with tier.lease("b", lambda: "b", timeout_s=30) as value:
            return value

    with ThreadPoolExecutor(1) as threads:
        with tier.lease("a", str):
            with pytest.raises(MachineError, match="in use"):
                ask(tier, "b")
            waiting = threads.submit(wait)
        assert waiting.result(30) == "b"
    assert not tier.is_loaded("a")
