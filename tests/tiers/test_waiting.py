"""Who waits for room in a tier: how long, for whom, in which turn, and never for ever."""

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from lora_cli.errors import MachineError
from lora_cli.tiers.eviction import POLICIES, Lru, PolicyName, new_ledger
from lora_cli.tiers.memory_accounting import Budget, Ledger, TierBusy
from lora_cli.tiers.tier import Tier
from tests.tiers.asking import ask, tier


def in_threads(*work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    return threads


def test_a_lease_waits_for_room_as_long_as_it_has_patience() -> None:
    cpu = tier(1)
    asked = threading.Event()
    found: list[str] = []

    def ask_for_b() -> None:
        asked.set()
        with cpu.lease("b", timeout_s=10) as lease:
            found.append(lease)

    with cpu.lease("a"):
        (thread,) = in_threads(ask_for_b)
        assert asked.wait(10)
        assert not found
    thread.join()
    assert found == ["B"]
    assert cpu.keys() == ("b",)


def test_a_lease_gets_the_place_of_what_is_discarded() -> None:
    cpu = tier(2)
    ask(cpu, "pinned")
    cpu.pin("pinned")
    found: list[float] = []

    def ask_for_b() -> None:
        with cpu.lease("b", timeout_s=30):
            found.append(time.monotonic())

    with cpu.lease("a"):
        (thread,) = in_threads(ask_for_b)
        time.sleep(0.2)
        assert not found
        discarded = time.monotonic()
        cpu.discard("pinned")
        thread.join(10)
        assert [one - discarded < 5 for one in found] == [True]


def test_a_lease_waits_for_a_load_that_is_in_its_way() -> None:
    started, go_on = threading.Event(), threading.Event()

    def load(key: str) -> str:
        if key == "slow":
            started.set()
            assert go_on.wait(10)
        return key.upper()

    cpu = tier(1, load=load)
    (slow,) = in_threads(lambda: ask(cpu, "slow"))
    assert started.wait(10)
    with pytest.raises(MachineError, match="in use"):
        ask(cpu, "b")
    threading.Timer(0.05, go_on.set).start()
    with cpu.lease("b", timeout_s=10) as lease:
        assert lease == "B"
    slow.join()


def test_patience_has_an_end() -> None:
    cpu = tier(1)
    with (
        cpu.lease("a"),
        pytest.raises(TierBusy, match="no room for b in the cpu tier: all 1 adapters there are in use"),
        cpu.lease("b", timeout_s=0.05),
    ):
        pass


@pytest.mark.parametrize("weight", [1, 12])
def test_what_never_fits_is_refused_at_once_however_patient(weight: int) -> None:
    cpu = tier(1, 10, weigh=lambda key: weight if key == "b" else 1)
    cpu.pin("a")
    with cpu.lease("a"), pytest.raises(MachineError, match="pinned"), cpu.lease("b", timeout_s=1e6):
        pass


def test_two_who_wait_for_each_other_do_not_wait_for_ever() -> None:
    cpu = tier(2)
    both_hold = threading.Barrier(2)
    refused: list[str] = []

    def hold_one_and_ask_for_another(mine: str, other: str) -> None:
        with cpu.lease(mine):
            both_hold.wait(10)
            try:
                with cpu.lease(other, timeout_s=0.1):
                    pass
            except TierBusy:
                refused.append(other)

    for thread in in_threads(
        lambda: hold_one_and_ask_for_another("a", "c"), lambda: hold_one_and_ask_for_another("b", "d")
    ):
        thread.join(10)
        assert not thread.is_alive()
    assert refused


def test_a_load_that_fails_lets_the_next_one_in_who_waits() -> None:
    started, go_on = threading.Event(), threading.Event()

    def load(key: str) -> str:
        if key == "broken":
            started.set()
            assert go_on.wait(10)
            raise ValueError(key)
        return key.upper()

    def ask_for_broken() -> None:
        with pytest.raises(ValueError, match="broken"):
            ask(cpu, "broken")

    cpu = tier(1, load=load)
    (thread,) = in_threads(ask_for_broken)
    assert started.wait(10)
    threading.Timer(0.05, go_on.set).start()
    with cpu.lease("b", timeout_s=10):
        assert cpu.counts().hits == 0
    thread.join()


def test_a_drop_that_fails_leaves_no_load_behind_that_others_would_wait_for() -> None:
    def drop(key: str, value: str) -> None:
        if key == "a":
            raise ValueError(value)

    cpu: Tier[str] = Tier(Ledger(Budget(1), Lru(), name="cpu"), weigh=lambda key: 1, load=str.upper, drop=drop)
    ask(cpu, "a")
    with pytest.raises(ValueError, match="A"):
        ask(cpu, "b")
    assert cpu.keys() == ()
    assert ask(cpu, "b", "c") == [False, False]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_many_threads_leave_books_that_add_up(policy: PolicyName) -> None:
    held: dict[str, int] = {}

    def load(key: str) -> str:
        held[key] = held.get(key, 0) + 1
        return key.upper()

    def drop(key: str, _value: str) -> None:
        held[key] -= 1

    cpu: Tier[str] = Tier(
        new_ledger(POLICIES[policy], "cpu", Budget(4, 14)), weigh=lambda key: 1 + ord(key) % 4, load=load, drop=drop
    )

    def work(seed: int) -> None:
        for number in range(80):
            key = "abcdefgh"[(seed + number * number * (seed + 2)) % 8]
            if number % 9 == seed:
                cpu.prefetch("abcdefgh"[number % 8])
            with cpu.lease(key, timeout_s=10):
                assert held[key] == 1
            if number % 11 == seed:
                cpu.discard(key)

    for thread in in_threads(*[partial(work, seed) for seed in range(4)]):
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(key for key, count in held.items() if count) == sorted(cpu.keys())
    assert cpu.used_bytes() == sum(1 + ord(key) % 4 for key, count in held.items() if count)
    assert cpu.counts().hits + cpu.counts().loads >= 320


def test_many_threads_in_a_small_tier_all_have_their_turn() -> None:
    here: list[str] = []

    def load(key: str) -> str:
        assert len(cpu.keys()) < 3
        return key.upper()

    cpu = tier(3, 12, weigh=lambda key: 1 + ord(key) % 4, load=load)

    def work(seed: int) -> None:
        for number in range(60):
            key = "abcdefgh"[(seed * 7 + number * (seed + 1)) % 8]
            with cpu.lease(key, timeout_s=10) as lease:
                assert lease == key.upper()
                assert cpu.used_bytes() <= 12
        here.append("done")

    for thread in in_threads(*[partial(work, seed) for seed in range(6)]):
        thread.join(30)
    assert len(here) == 6
    counts = cpu.counts()
    assert counts.hits + counts.loads == 360
