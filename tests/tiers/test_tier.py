"""A tier keeps its budget, keeps what is leased, and loads everything once."""

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.errors import MachineError
from lora_cli.tiers.memory_accounting import Counts
from tests.tiers.asking import ask, tier


def test_what_was_loaded_once_is_a_hit_the_second_time() -> None:
    cpu = tier(2)
    assert ask(cpu, "a", "a", "b", "a") == [False, True, False, True]
    assert cpu.counts() == Counts(hits=2, loads=2, evictions=0)


def test_the_least_recently_used_leaves_a_full_tier() -> None:
    dropped: list[str] = []
    cpu = tier(2, dropped=dropped)
    ask(cpu, "a", "b", "a", "c")
    assert dropped == ["b"]
    assert cpu.keys() == cpu.eviction_order() == ("a", "c")
    assert cpu.counts().evictions == 1
    ask(cpu, "a")
    assert (cpu.keys(), cpu.eviction_order()) == (("a", "c"), ("c", "a"))


def test_what_is_leased_stays_even_when_it_is_the_oldest() -> None:
    cpu = tier(2)
    with cpu.lease("a"):
        ask(cpu, "b", "c")
        assert cpu.keys() == ("a", "c")


def test_what_is_pinned_stays_even_when_it_is_the_oldest() -> None:
    cpu = tier(2)
    cpu.pin("a")
    ask(cpu, "a", "b", "c", "d")
    assert cpu.keys() == ("a", "d")


def test_a_tier_full_of_leases_refuses_and_says_so() -> None:
    cpu = tier(1)
    with cpu.lease("a"), pytest.raises(MachineError, match="no room for b in the cpu tier: all 1 adapters"):
        ask(cpu, "b")
    assert ask(cpu, "b") == [False]


def test_bytes_are_kept_by_letting_go_of_as_many_as_it_takes() -> None:
    weights = {"a": 3, "b": 3, "c": 3, "big": 9}
    cpu = tier(9, 10, weigh=weights.__getitem__)
    ask(cpu, "a", "b", "c")
    assert cpu.used_bytes() == 9
    ask(cpu, "big")
    assert cpu.keys() == ("big",)


def test_what_can_never_fit_is_refused_before_it_is_loaded_with_the_bytes_it_is_short_of() -> None:
    loaded: list[str] = []

    def load(key: str) -> str:
        loaded.append(key)
        return key.upper()

    cpu = tier(2, 10, weigh=lambda key: 12 if key == "big" else 1, load=load)
    ask(cpu, "a")
    with pytest.raises(MachineError, match="needs 12 bytes and the tier has 10, 2 too few"):
        ask(cpu, "big")
    assert loaded == ["a"]
    assert cpu.keys() == ("a",)


def test_room_is_made_before_the_load_not_after() -> None:
    seen_at_load: list[int] = []

    def load(key: str) -> str:
        seen_at_load.append(cpu.used_bytes())
        return key.upper()

    cpu = tier(9, 10, weigh=lambda key: 6, load=load)
    ask(cpu, "a", "b")
    assert seen_at_load == [6, 6]


def test_a_load_that_fails_leaves_nothing_behind_and_can_be_tried_again() -> None:
    broken = {"a"}

    def load(key: str) -> str:
        if key in broken:
            raise ValueError(key)
        return key.upper()

    cpu = tier(1, load=load)
    with pytest.raises(ValueError, match="a"):
        ask(cpu, "a")
    assert cpu.keys() == ()
    assert cpu.used_bytes() == 0
    broken.clear()
    assert ask(cpu, "a") == [False]
    assert cpu.counts() == Counts(hits=0, loads=1, evictions=0)


def test_a_discarded_adapter_is_loaded_again() -> None:
    dropped: list[str] = []
    cpu = tier(2, dropped=dropped)
    ask(cpu, "a")
    cpu.discard("a")
    cpu.discard("never here")
    assert dropped == ["a"]
    assert ask(cpu, "a") == [False]


def test_eight_threads_asking_for_one_adapter_load_it_once() -> None:
    loads: list[str] = []
    everyone_is_there = threading.Barrier(8)

    def load(key: str) -> str:
        loads.append(key)
        return key.upper()

    cpu = tier(2, load=load)

    def worker() -> None:
        everyone_is_there.wait()
        ask(cpu, "a")

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["a"]
    assert cpu.counts() == Counts(hits=7, loads=1, evictions=0)


def test_a_slow_load_does_not_delay_a_hit_on_another_adapter() -> None:
    started, go_on = threading.Event(), threading.Event()

    def load(key: str) -> str:
        if key == "slow":
            started.set()
            assert go_on.wait(10)
        return key.upper()

    cpu = tier(2, load=load)
    ask(cpu, "a")
    thread = threading.Thread(target=ask, args=(cpu, "slow"))
    thread.start()
    assert started.wait(10)
    assert ask(cpu, "a") == [True]
    assert not cpu.is_loaded("slow")
    go_on.set()
    thread.join()
    assert cpu.is_loaded("slow")


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 5), st.integers(4, 12))
def test_no_order_of_requests_breaks_the_budget_and_lru_agrees_with_a_plain_list(
    requests: Sequence[str], items: int, max_bytes: int
) -> None:
    weights = {key: 1 + number % 4 for number, key in enumerate("abcdefgh")}
    cpu = tier(items, max_bytes, weigh=weights.__getitem__)
    model: list[str] = []
    for key in requests:
        (hit,) = ask(cpu, key)
        assert hit == (key in model)
        model = [held for held in model if held != key]
        while not hit and (len(model) >= items or sum(weights[held] for held in model) + weights[key] > max_bytes):
            model.pop(0)
        model.append(key)
        assert sorted(cpu.keys()) == sorted(model)
        assert cpu.used_bytes() <= max_bytes


def test_what_is_loaded_ahead_counts_as_no_request_and_is_a_hit_when_it_comes() -> None:
    cpu = tier(1)
    assert cpu.prefetch("a")
    assert not cpu.prefetch("a")
    assert ask(cpu, "a") == [True]
    with cpu.lease("a"):
        assert not cpu.prefetch("b")
    assert cpu.counts() == Counts(hits=2, loads=1, evictions=0)
