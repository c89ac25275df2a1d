"""What is remembered of adapters: rates that age, bytes and costs; kept over a restart, and nonsense refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.core.parse import json_value
from lora_cli.errors import FormatError
from lora_cli.tiers.access_history import HALF_LIVES, History


def history_of(*keys: str, most: int = 16_384) -> History:
    history = History(most)
    for key in keys:
        history.record_load(key, len(key), 2.0)
        history.record_request(key)
    return history


def through_a_file(history: History) -> History:
    return History.restored(json_value(json.dumps(history.state()).encode(), "rates.json"), "rates.json")


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.sampled_from(HALF_LIVES))
def test_a_rate_is_the_logarithm_of_discounted_requests(requests: list[str], half_life: int) -> None:
    history = history_of(*requests)
    for key in set(requests):
        counted = sum(2 ** (at / half_life) for at, one in enumerate(requests, 1) if one == key)
        assert 2 ** history.rate(half_life)(key) == pytest.approx(counted)


def test_a_rate_stays_finite_for_ever() -> None:
    history = history_of("a", "b")
    history.clock += 10**12
    history.record_request("b")
    rates = [history.rate(HALF_LIVES[0])(key) for key in "ab"]
    assert rates[1] - rates[0] == pytest.approx(10**12 / HALF_LIVES[0])


def test_a_cost_is_half_the_last_load_and_half_those_before() -> None:
    history = History()
    assert (history.cost_ms("a"), history.weight("a")) == (1.0, 0)
    history.record_request("a")
    history.record_load("a", 10, 8.0)
    assert (history.cost_ms("a"), history.weight("a")) == (8.0, 10)
    history.record_load("a", 12, 4.0)
    assert (history.cost_ms("a"), history.weight("a")) == (6.0, 12)


def test_the_hottest_come_first_and_equals_by_name() -> None:
    history = history_of("b", "c", "c", "a", "c", "b", "never asked")
    history.record_load("only loaded", 1, 1.0)
    assert history.hottest(3) == ("c", "b", "never asked")
    assert history.hottest(9)[-1] == "only loaded"


def test_what_is_asked_for_least_is_forgotten_when_there_are_too_many() -> None:
    history = history_of("hot", "hot", *(f"a{number}" for number in range(100)), "hot", most=16)
    assert len(history) <= 18
    assert history.hottest(1) == ("hot",)
    assert history.weight("hot") == 3


@given(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=60))
def test_a_restart_changes_nothing(requests: list[str]) -> None:
    before = history_of(*requests)
    before.record_load("ahead", 9, 1.5)
    after = through_a_file(before)
    assert after.hottest(9) == before.hottest(9)
    for key in [*requests, "ahead"]:
        assert (after.weight(key), after.cost_ms(key)) == (before.weight(key), before.cost_ms(key))
    for history in (before, after):
        for key in ("b", "d", "new"):
            history.record_request(key)
    assert after.hottest(9) == before.hottest(9)


def test_the_hottest_there_can_be_is_read_back() -> None:
    assert through_a_file(history_of(*["a"] * 100_000)).hottest(1) == ("a",)


def test_the_largest_weight_and_cost_are_read_back() -> None:
    state = row(weight=1 << 60, cost=1e9)
    assert History.restored(state, "rates.json", most=32).state() == state


def test_a_state_can_be_read_by_people() -> None:
    assert history_of("a").state() == {
        "schema": "lora_cli/history/1",
        "half_lives": list(HALF_LIVES),
        "adapters": [["a", 1, 2.0, [0.0, 0.0, 0.0, 0.0]]],
    }


def row(**changes: Any) -> dict[str, Any]:
    fields = {"key": "a", "weight": 1, "cost": 2.0, "rates": [0.0] * 4} | changes
    return {**History().state(), "adapters": [list(fields.values())]}


def unlike(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    state = history_of("a").state()
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "rates.json: must be an object"),
        ({}, "rates.json: schema: must be a string, not null"),
        (unlike(lambda state: state.update(schema="lora_cli/history/9")), "is not one of lora_cli/history/1"),
        (unlike(lambda state: state.update(half_lives=[1, 2])), r"half_lives: must be \[300"),
        (unlike(lambda state: state.update(adapters={})), "adapters: must be a list"),
        (unlike(lambda state: state.update(adapters=[[]] * 40)), "adapters: has 40 adapters, more than 36"),
        (unlike(lambda state: state["adapters"][0].pop()), r"adapters\[0\]: must have 4 values, not 3"),
        (row(key=""), "the key must have 1 to 4096 characters, not 0"),
        (row(key="k" * 5000), "the key must have 1 to 4096 characters, not 5000"),
        (row(key=7), "must be a string, not an integer"),
        (row(weight=-1), "must be at least 0"),
        (row(weight=(1 << 60) + 1), "must be at most"),
        (row(weight=True), "must be an integer, not a boolean"),
        (row(cost=-1.0), "must be from 0 to 1e"),
        (row(cost=1e300), "must be from 0 to 1e"),
        (row(cost=float("nan")), "must be finite"),
        (row(rates=[0.0]), "must have 4 rates, not 1"),
        (row(rates=[0.0, 0.0, 0.0, 1e9]), "must be from -1e9 to 16, not 1e"),
        (row(rates=[0.0, 0.0, 0.0, float("inf")]), "must be finite"),
        (row(rates="abcd"), "must be a list"),
    ],
)
def test_a_state_that_is_none_is_refused(state: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        History.restored(state, "rates.json", most=32)
