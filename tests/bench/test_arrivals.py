"""When requests come: Gamma gaps that are the same on every machine."""

import math
from itertools import pairwise
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.random_streams import exp, log
from lora_cli.bench.workload import arrival_times


@given(st.floats(1e-300, 1e300))
def test_the_logarithm_is_the_one_of_the_c_library_to_15_digits(x: float) -> None:
    assert log(x) == pytest.approx(math.log(x), rel=1e-15, abs=1e-15)


@given(st.floats(-690, 690))
def test_the_exponential_is_the_one_of_the_c_library_to_14_digits(x: float) -> None:
    assert exp(x) == pytest.approx(math.exp(x), rel=1e-14)


@pytest.mark.parametrize("burstiness", [0.1, 1.0, 4.0])
def test_gaps_are_as_uneven_as_vllm_says(burstiness: float) -> None:
    times = arrival_times(50_000, 10.0, burstiness, 1)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert mean(gaps) == pytest.approx(0.1, rel=0.02)
    assert stdev(gaps) / mean(gaps) == pytest.approx(burstiness**-0.5, rel=0.03)


def test_the_last_one_comes_when_the_rate_says() -> None:
    for burstiness in (1.0, 0.3, math.inf):
        assert arrival_times(400, 8.0, burstiness, 3)[-1] == pytest.approx(50.0, abs=1e-6)


def test_they_never_go_back_and_all_come_at_once_without_a_rate() -> None:
    times = arrival_times(3_000, 50.0, 0.05, 2)
    assert list(times) == sorted(times)
    assert set(arrival_times(10, math.inf, 1.0, 0)) == {0.0}
    assert len(arrival_times(0, 5.0, 1.0, 0)) == 0
