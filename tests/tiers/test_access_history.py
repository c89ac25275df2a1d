"""What is remembered of adapters: rates that age."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.tiers.access_history import HALF_LIFE, History


def history_of(*keys: str, most: int = 16_384) -> History:
    history = History(most)
    for key in keys:
        history.record_request(key)
    return history


@given(st.lists(st.sampled_from("abcd"), max_size=60))
def test_a_rate_is_the_logarithm_of_discounted_requests(requests: list[str]) -> None:
    history = history_of(*requests)
    for key in set(requests):
        counted = sum(2 ** (at / HALF_LIFE) for at, one in enumerate(requests, 1) if one == key)
        assert 2 ** history.rate(key) == pytest.approx(counted)


def test_a_rate_stays_finite_for_ever() -> None:
    history = history_of("a", "b")
    history.clock += 10**12
    history.record_request("b")
    assert history.rate("b") - history.rate("a") == pytest.approx(10**12 / HALF_LIFE)


def test_who_is_asked_for_least_is_forgotten_beyond_the_most() -> None:
    history = history_of("hot", "hot", *(f"a{number}" for number in range(100)), "hot", most=16)
    assert len(history) <= 18
    assert history.rate("hot") > max(history.rate(f"a{number}") for number in range(100))
