"""The best that any policy can make of a trace."""

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.optimal_bounds import belady
from lora_cli.tiers.eviction import POLICIES, PolicyName
from lora_cli.tiers.memory_accounting import Budget
from tests.tiers.eviction.replaying import replay


@given(st.text("abcde", max_size=12), st.integers(1, 3))
def test_the_best_is_what_trying_every_choice_finds(trace: str, items: int) -> None:
    @cache
    def most(number: int, here: frozenset[str]) -> int:
        if number == len(trace):
            return 0
        key = trace[number]
        if key in here:
            return 1 + most(number + 1, here)
        if len(here) < items:
            return most(number + 1, here | {key})
        return max(most(number + 1, here - {one} | {key}) for one in here)

    assert sum(belady(trace, items)[0]) == most(0, frozenset())


@given(st.lists(st.sampled_from("abcdefgh"), max_size=80), st.integers(1, 5), st.sampled_from(sorted(POLICIES)))
def test_no_policy_beats_the_best(trace: list[str], items: int, policy: PolicyName) -> None:
    assert replay(trace, Budget(items), policy).hits <= sum(belady(trace, items)[0])
