"""Each policy's definition, on traces that can be followed by hand."""

from collections.abc import Callable, Sequence

import pytest

from lora_cli.tiers import eviction
from lora_cli.tiers.access_history import History
from lora_cli.tiers.eviction import (
    POLICIES,
    Adaptive,
    Gdsf,
    Lru,
    PolicyContext,
    PolicyName,
    Ranked,
    Windowed,
    experts,
)
from lora_cli.tiers.memory_accounting import Budget, Ledger


def ledger_of(policy: PolicyName, slots: int = 2) -> tuple[Ledger, History]:
    history, budget = History(), Budget(slots)
    return Ledger(budget, POLICIES[policy](PolicyContext(budget, history)), history), history


def ask(ledger: Ledger, *keys: str, weight: int = 1, cost_ms: float = 1.0) -> list[str]:
    """Who left, in order."""
    return [one for key in keys for one in ledger.request(key, weight, cost_ms) or ()]


def test_the_policies_are_known_by_name() -> None:
    assert list(POLICIES) == ["lru", "lfu", "gdsf", "adaptive"]


def test_lru_lets_go_of_who_was_asked_for_longest_ago() -> None:
    ledger, _ = ledger_of("lru")
    assert ask(ledger, "a", "b", "a", "c", "a", "b") == ["b", "c"]


def test_lfu_lets_go_of_who_is_asked_for_least_and_counts_what_was_before_it_was_here() -> None:
    ledger, _ = ledger_of("lfu")
    assert ask(ledger, "a", "a", "a", "b", "c") == ["b"]
    # b has two requests when it is back, then four, and a has three.
    assert ask(ledger, "b", "c") == ["c", "b"]
    assert ask(ledger, "b", "b", "c") == ["c", "a"]


def test_lfu_forgets_what_was_popular_long_ago() -> None:
    ledger, _ = ledger_of("lfu")
    ask(ledger, *["old"] * 40)
    ask(ledger, *["new"] * 30_000)
    assert ask(ledger, "x") == ["old"]
    assert ask(ledger, *["x"] * 10, "y") == ["x"]


def test_gdsf_keeps_small_and_dear_ones_and_ages_by_what_it_evicts() -> None:
    worth = {"small": 4.0, "large": 1.0, "dear": 9.0, "next": 2.0}
    ledger = Ledger(Budget(2), Gdsf(worth.__getitem__))
    # H: small 4, large 1 -> large leaves (L = 1); dear 1 + 9; small leaves (L = 4); next 4 + 2.
    assert ask(ledger, "small", "large", "dear", "next") == ["large", "small"]
    # next: 4 + 2 * 2 = 8, then 10, and then 12: it overtakes dear (10), which nobody asks for.
    assert ask(ledger, "next", "next", "next", "small") == ["dear"]


def test_gdsf_ages_by_evictions_only() -> None:
    ledger = Ledger(Budget(2), Gdsf(lambda key: 1.0))
    ask(ledger, "z", "z", "a", "a", "a")
    assert ledger.discard("a")
    # Had a's 3 become the age, b would have come in above z.
    assert ask(ledger, "b", "c") == ["b"]


def test_a_window_keeps_the_latest_and_ranks_the_rest() -> None:
    score = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.0, "e": 9.0}
    policy = Windowed(score.__getitem__, lambda key: 0.25, 0.5)
    ledger = Ledger(Budget(4), policy)
    ask(ledger, "a", "b", "c", "d")
    # c and d are the latest two; of a and b, b has the lower score.
    assert list(policy.eviction_order()) == ["b", "a", "c", "d"]
    assert ask(ledger, "e") == ["b"]
    # a hit brings a back into the window; d leaves it, and the tier.
    assert ask(ledger, "a", "b") == ["d"]
    assert ledger.discard("a")
    assert sorted(ledger.keys()) == ["b", "c", "e"]


def test_one_larger_than_the_window_goes_straight_to_the_rest() -> None:
    policy = Windowed(lambda key: 0.0, lambda key: 0.75, 0.5)
    Ledger(Budget(1), policy).request("large", 3, 1.0)
    assert list(policy.eviction_order()) == ["large"]


def test_what_is_ranked_is_in_order_however_scores_rise() -> None:
    score = {"a": 1.0, "b": 2.0, "c": 3.0}
    ranked = Ranked(score.__getitem__)
    for key in "cab":
        ranked.loaded(key, ahead=False)
    assert list(ranked.eviction_order()) == ["a", "b", "c"]
    score["a"] = 2.5
    assert list(ranked.eviction_order()) == ["b", "a", "c"]
    ranked.removed("a", evicted=False)
    assert list(ranked.eviction_order()) == ["b", "c"]


def test_adaptive_begins_as_lru() -> None:
    requests = "abcacbdbacdab"
    adaptive, _ = ledger_of("adaptive")
    lru, _ = ledger_of("lru")
    assert ask(adaptive, *requests) == ask(lru, *requests)


def leader_after(requests: Sequence[str], slots: int = 4, cost: Callable[[str], float] = lambda key: 1.0) -> str:
    history, budget = History(), Budget(slots)
    policy = Adaptive(PolicyContext(budget, history))
    ledger = Ledger(budget, policy, history)
    for key in requests:
        ledger.request(key, 1, cost(key))
    return policy.leader


def test_adaptive_follows_rates_where_a_scan_passes_by_and_recency_where_sessions_do() -> None:
    scan = [key for number in range(600) for key in ("a", "b", "c", f"x{number % 40}", f"y{number % 40}")]
    assert leader_after(scan).startswith(("rate-", "gdsf"))
    sessions = [f"s{number // 6 + number % 3}" for number in range(3000)]
    assert leader_after(sessions) == "lru"


def test_adaptive_judges_by_what_a_miss_costs() -> None:
    """Three dear ones come by turns between cheap ones that come twice: recency has most hits, and no dear one."""
    requests = [
        key
        for number in range(600)
        for pair in range(5)
        for key in [f"cheap{number}.{pair}", f"other{number}.{pair}"] * 2 + [f"dear{number % 3}"] * (pair == 0)
    ]

    def missed_of_dear(policy: PolicyName) -> int:
        ledger, _ = ledger_of(policy, 4)
        hits = [ledger.request(key, 1, 500.0 if key.startswith("dear") else 1.0) is None for key in requests]
        return sum(not hit for hit, key in zip(hits, requests, strict=True) if key.startswith("dear"))

    assert missed_of_dear("lru") == 600
    assert missed_of_dear("adaptive") < 60


def test_adaptive_still_learns_after_millions_of_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a miss counts doubles with each few requests: numbers must not leave what a float can hold."""
    scan = [key for number in range(600) for key in ("a", "b", "c", f"x{number % 40}", f"y{number % 40}")]
    monkeypatch.setattr(eviction, "GROWTH", 2 ** (1 / 20))
    assert leader_after(["a"] * 30_000 + scan).startswith(("rate-", "gdsf"))


def test_adaptive_lets_go_first_of_who_is_not_in_the_leaders_shadow() -> None:
    history, budget = History(), Budget(3)
    policy = Adaptive(PolicyContext(budget, history))
    ledger = Ledger(budget, policy, history)
    ask(ledger, "a", "b")
    ledger.admit("ahead", 1)
    ledger.loaded("ahead", 1.0, ahead=True)
    assert list(policy.eviction_order()) == ["ahead", "a", "b"]
    ledger.pin("ahead")
    assert ask(ledger, "c") == ["a"]


def test_experts_have_names_that_say_what_they_are() -> None:
    assert list(experts(PolicyContext(Budget(2), History()))) == [
        "lru", "gdsf", "window-0.75", "window-0.5", "rate-300", "rate-1000", "rate-5000", "rate-20000",
    ]  # fmt: skip


@pytest.mark.parametrize(("objective", "loss"), [("stall", 7.0), ("hits", 1.0), ("bytes", 10.0)])
def test_the_objective_says_what_a_miss_costs(objective: str, loss: float) -> None:
    history = History()
    history.record_load("a", 10, 7.0)
    view = PolicyContext(Budget(4, 40), history, objective)  # type: ignore[arg-type]
    assert view.loss("a") == loss
    assert view.worth("a") == loss / 0.25


def test_a_policy_hears_of_an_lru_order_only_what_happened() -> None:
    policy = Lru()
    ledger = Ledger(Budget(2), policy)
    ledger.admit("a", 1)
    ledger.failed("a")
    assert list(policy.eviction_order()) == []
