"""The books of a tier: no order of requests, leases and pins breaks them."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.errors import MachineError
from lora_cli.tiers.eviction import POLICIES, Lru, PolicyName, new_ledger
from lora_cli.tiers.memory_accounting import Budget, Counts, Ledger, TierBusy
from lora_cli.tiers.tier import Tier

KEYS = "abcdefgh"
WEIGHTS = {key: 1 + number % 4 for number, key in enumerate(KEYS)}

policies = st.sampled_from(sorted(POLICIES))
keys = st.sampled_from(KEYS)
steps = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "ask", "lease", "release", "pin", "discard", "ahead"]), keys),
    max_size=80,
)


def ledger_of(policy: PolicyName, budget: Budget) -> Ledger:
    return new_ledger(POLICIES[policy], "cpu", budget)


class Kept:
    """What a test knows must not leave, beside the ledger's own books."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.leased: list[str] = []
        self.pinned: set[str] = set()

    def step(self, what: str, key: str) -> None:
        if what == "lease" and self.ledger.is_loaded(key):
            self.ledger.lease(key)
            self.leased.append(key)
        elif what == "release" and key in self.leased:
            self.ledger.release(key)
            self.leased.remove(key)
        elif what == "pin" and len(self.pinned) < 2:
            self.ledger.pin(key)
            self.pinned.add(key)
        elif what == "discard":
            goes = self.ledger.is_loaded(key) and key not in self.leased
            assert self.ledger.discard(key) == goes
        elif what in {"ask", "ahead"}:
            self.come(key, ahead=what == "ahead")

    def come(self, key: str, *, ahead: bool) -> None:
        before = self.ledger.keys()
        try:
            if ahead and key not in self.ledger:
                evicted = self.ledger.admit(key, WEIGHTS[key])
                self.ledger.loaded(key, ahead=True)
            else:
                evicted = self.ledger.request(key, WEIGHTS[key]) or ()
        except MachineError:
            assert self.ledger.keys() == before
            spared = set(self.leased) | self.pinned
            free = [one for one in before if one not in spared]
            kept = sum(WEIGHTS[one] for one in before if one not in free) + WEIGHTS[key]
            budget = self.ledger.budget
            assert len(before) - len(free) >= budget.items or kept > (budget.max_bytes or kept)
            return
        assert not set(evicted) & (set(self.leased) | self.pinned)


@given(policies, steps, st.integers(1, 5), st.integers(4, 12) | st.none())
def test_nothing_breaks_the_budget_and_nobody_who_is_kept_leaves(
    policy: PolicyName, steps: Sequence[tuple[str, str]], items: int, max_bytes: int | None
) -> None:
    ledger = ledger_of(policy, Budget(items, max_bytes))
    kept = Kept(ledger)
    for what, key in steps:
        kept.step(what, key)
        here = ledger.keys()
        assert len(here) <= items
        assert ledger.used_bytes == sum(WEIGHTS[one] for one in here)
        assert max_bytes is None or ledger.used_bytes <= max_bytes
        assert sorted(one for one in ledger.eviction.eviction_order() if one in ledger) == sorted(here)


@given(policies, st.lists(keys, max_size=120), st.integers(1, 5), st.integers(4, 12))
def test_a_tier_does_what_a_replay_of_its_requests_says(
    policy: PolicyName, requests: Sequence[str], items: int, max_bytes: int
) -> None:
    budget = Budget(items, max_bytes)
    ledger = ledger_of(policy, budget)
    tier = Tier(ledger_of(policy, budget), weigh=WEIGHTS.__getitem__, load=str)
    for key in requests:
        before = tier.counts().hits
        with tier.lease(key):
            assert (tier.counts().hits > before) == (ledger.request(key, WEIGHTS[key]) is None)
    assert tier.counts() == ledger.counts()
    assert tier.keys() == ledger.keys()


def test_who_comes_is_counted_and_cannot_leave() -> None:
    ledger = ledger_of("lru", Budget(2))
    assert ledger.admit("a", 1) == ()
    assert (ledger.is_loaded("a"), ledger.is_loading("a"), ledger.keys(), ledger.used_bytes) == (False, True, (), 1)
    ledger.request("b", 1)
    assert ledger.request("c", 1) == ("b",)
    ledger.failed("a")
    assert (ledger.is_loading("a"), ledger.used_bytes) == (False, 1)
    assert ledger.counts() == Counts(hits=0, loads=2, evictions=1)


def leased() -> Ledger:
    ledger = ledger_of("lru", Budget(1))
    ledger.request("a", 1)
    ledger.lease("a")
    return ledger


def pinned(max_bytes: int | None = None) -> Ledger:
    ledger = ledger_of("lru", Budget(2, max_bytes))
    for key in "ab":
        ledger.request(key, 3)
        ledger.pin(key)
    return ledger


def cases() -> Iterator[tuple[Ledger, int, type[MachineError], str]]:
    yield leased(), 1, TierBusy, "no room for x in the cpu tier: all 1 adapters there are in use"
    yield pinned(), 1, MachineError, "no room for x in the cpu tier: all 2 adapters there are pinned"
    few = "no room for x in the cpu tier: it needs 5 bytes and the tier has 10, of which 6 are pinned, 1 too few"
    yield pinned(10), 5, MachineError, few
    alone = "no room for x in the cpu tier: it needs 12 bytes and the tier has 10, 2 too few"
    yield ledger_of("lru", Budget(2, 10)), 12, MachineError, alone
    yield ledger_of("lru", Budget(0)), 1, MachineError, "no room for x: the cpu tier has no slots"


@pytest.mark.parametrize(("ledger", "weight", "kind", "message"), list(cases()))
def test_who_cannot_come_hears_why(ledger: Ledger, weight: int, kind: type[MachineError], message: str) -> None:
    with pytest.raises(MachineError) as raised:
        ledger.admit("x", weight)
    assert type(raised.value) is kind
    assert raised.value.message == message
    assert "x" not in ledger


def test_a_ledger_needs_no_history() -> None:
    ledger = Ledger(Budget(1), Lru())
    assert [ledger.request(key, 1) is None for key in "aab"] == [False, True, False]
