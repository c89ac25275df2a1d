"""Tiers: what stays, what goes, what is refused, and that LFU that ages is never far from the better policy."""

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_lru_lets_go_of_who_was_asked_for_longest_ago() -> None:
    assert ask(tier_of("lru"), "a", "b", "a", "c", "a", "b") == ["b", "c"]


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


def drifting(random_: random.Random) -> list[str]:
    return [key for part in range(20) for key in zipf(1_500, random_, shift=10 * part)]


def scanned(random_: random.Random) -> list[str]:
    scans = [f"s{number}" for number in range(30_000)]
    return [key for part in range(20) for key in (*zipf(1_000, random_), *scans[500 * part : 500 * part + 500])]


@pytest.mark.parametrize("places", [8, 32, 100])
@pytest.mark.parametrize("requests", [lambda one: zipf(30_000, one), drifting, scanned])
def test_aged_lfu_has_at_most_two_points_fewer_hits_than_the_better_of_lru_and_lfu(
    requests: Callable[[random.Random], list[str]], places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = requests(random.Random(7))

    def hit_ratio(policy: PolicyName) -> float:
        return sum(tier_hits(keys, places, policy)) / len(keys)

    ours, lru = hit_ratio("lfu"), hit_ratio("lru")
    monkeypatch.setattr(tiers, "HALF_LIFE", 1 << 40)
    assert ours >= max(lru, hit_ratio("lfu")) - 0.02


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 5))
def test_lru_agrees_with_a_plain_list(keys: Sequence[str], places: int) -> None:
    tier, model = tier_of("lru", places), list[str]()
    for key in keys:
        assert tier.is_loaded(key) == (key in model)
        ask(tier, key)
        model = [*(held for held in model if held != key), key][-places:]
        assert list(tier.contents()) == model


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_pinned_or_leased_stays_and_a_tier_full_of_it_refuses_with_the_reason(policy: PolicyName) -> None:
    tier = tier_of(policy)
    tier.pinned.add("a")
    ask(tier, "a")
    with tier.lease("b", str), pytest.raises(MachineError, match="all 2 adapters there are in use"):
        ask(tier, "c")
    assert ask(tier, "c", "d") == ["b", "c"]
    tier.pinned.add("d")
    with pytest.raises(MachineError, match="all 2 adapters there are pinned"):
        ask(tier, "e")
    with tier.lease("a", str):
        tier.discard("a")
        assert tier.is_loaded("a")
    tier.discard("a")
    assert not tier.is_loaded("a")
    assert ask(tier, "e", "f") == ["e"]


class Held:
    """A tier of ``items`` values, and what it loaded and dropped."""

    def __init__(self, items: int) -> None:
        self.dropped: list[str] = []
        self.loads: list[str] = []
        self.tier: Tier[str] = Tier("cpu", items, "lru", self.dropped.append)

    def load(self, key: str) -> str:
        self.loads.append(key)
        return key

    def ask(self, key: str, timeout_s: float = 0.0) -> str:
        with self.tier.lease(key, lambda: self.load(key), timeout_s=timeout_s) as value:
            return value


def test_a_load_that_fails_leaves_nothing_behind_and_can_be_tried_again() -> None:
    held = Held(1)
    with suppress(ValueError), held.tier.lease("a", lambda: str(int("no"))):
        raise AssertionError
    assert held.tier.contents() == {}
    assert held.ask("a") == "a"
    assert held.ask("b") == "b"
    held.tier.discard("b")
    held.tier.discard("never here")
    assert held.dropped == ["a", "b"]
    assert (held.tier.hits, held.tier.loads, held.tier.evictions) == (0, 2, 1)


def test_eight_threads_that_ask_for_one_adapter_load_it_once_and_a_hit_elsewhere_does_not_wait() -> None:
    held, started, go_on = Held(2), threading.Event(), threading.Event()
    held.ask("hot")
    load = held.load

    def slow(key: str) -> str:
        if key == "slow":
            started.set()
            assert go_on.wait(30)
        return load(key)

    held.load = slow  # type: ignore[method-assign]
    threads = [threading.Thread(target=held.ask, args=("slow",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    assert held.ask("hot") == "hot"
    assert not held.tier.is_loaded("slow")
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert held.loads == ["hot", "slow"]


def test_who_finds_no_room_waits_for_the_end_of_a_lease() -> None:
    held, done = Held(1), list[str]()
    with held.tier.lease("a", lambda: "a"):
        with pytest.raises(MachineError, match="in use"):
            held.ask("b")
        waiting = threading.Thread(target=lambda: done.append(held.ask("b", 30)))
        waiting.start()
    waiting.join(30)
    assert (done, held.dropped) == (["b"], ["a"])
