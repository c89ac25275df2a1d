"""Each policy's definition, on traces that can be followed by hand."""

from lora_cli.tiers.eviction import POLICIES, Lru, PolicyName, Ranked, new_ledger
from lora_cli.tiers.memory_accounting import Budget, Ledger


def ledger_of(policy: PolicyName) -> Ledger:
    return new_ledger(POLICIES[policy], "cpu", Budget(2))


def ask(ledger: Ledger, *keys: str) -> list[str]:
    """Who left, in order."""
    return [one for key in keys for one in ledger.request(key, 1) or ()]


def test_the_policies_are_known_by_name() -> None:
    assert list(POLICIES) == ["lru", "lfu"]


def test_lru_lets_go_of_who_was_asked_for_longest_ago() -> None:
    ledger = ledger_of("lru")
    assert ask(ledger, "a", "b", "a", "c", "a", "b") == ["b", "c"]


def test_lfu_lets_go_of_who_is_asked_for_least_and_counts_what_was_before_it_was_here() -> None:
    ledger = ledger_of("lfu")
    assert ask(ledger, "a", "a", "a", "b", "c") == ["b"]
    # b has two requests when it is back, then four, and a has three.
    assert ask(ledger, "b", "c") == ["c", "b"]
    assert ask(ledger, "b", "b", "c") == ["c", "a"]


def test_lfu_forgets_what_was_popular_long_ago() -> None:
    ledger = ledger_of("lfu")
    ask(ledger, *["old"] * 40)
    ask(ledger, *["new"] * 30_000)
    assert ask(ledger, "x") == ["old"]
    assert ask(ledger, *["x"] * 10, "y") == ["x"]


def test_what_is_ranked_is_in_order_however_scores_rise() -> None:
    score = {"a": 1.0, "b": 2.0, "c": 3.0}
    ranked = Ranked(score.__getitem__)
    for key in "cab":
        ranked.loaded(key)
    assert list(ranked.eviction_order()) == ["a", "b", "c"]
    score["a"] = 2.5
    assert list(ranked.eviction_order()) == ["b", "a", "c"]
    ranked.removed("a")
    assert list(ranked.eviction_order()) == ["b", "c"]


def test_a_policy_hears_of_an_lru_order_only_what_happened() -> None:
    policy = Lru()
    ledger = Ledger(Budget(2), policy)
    ledger.admit("a", 1)
    ledger.failed("a")
    assert list(policy.eviction_order()) == []
