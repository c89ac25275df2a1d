"""Rates that rise, as ``vllm bench serve`` has them."""

from math import inf

import numpy as np
import pytest

from lora_cli.bench.workload import Ramp, ramp_of, ramped_times
from lora_cli.errors import UsageError


@pytest.mark.parametrize("strategy", ["linear", "exponential"])
def test_the_rate_rises_as_in_vllm(strategy: str) -> None:
    """Its formula, in numpy; with an infinite burstiness each gap is the rate's own."""
    progress = np.arange(200) / 199
    rates = 2 + 18 * progress if strategy == "linear" else 2 * 10**progress
    found = ramped_times(200, Ramp(strategy, 2, 20), inf, 0)
    assert np.allclose(found, np.cumsum(1 / rates), atol=1e-6)


def test_random_gaps_are_around_the_rate() -> None:
    found = np.asarray(ramped_times(20_000, Ramp("linear", 10, 20), 0.5, 3))
    assert found[-1] == pytest.approx(np.sum(1 / (10 + 10 * np.arange(20_000) / 19_999)), rel=0.03)
    assert list(found[:100]) == list(ramped_times(20_000, Ramp("linear", 10, 20), 0.5, 3)[:100])


@pytest.mark.parametrize("said", [("linear", 1, None), ("steep", 1, 2), (None, 1, 2), ("exponential", 5, 2)])
def test_half_a_ramp_is_none(said: tuple[str | None, int | None, int | None]) -> None:
    with pytest.raises(UsageError, match="a ramp is linear or exponential"):
        ramp_of(*said)
    assert ramp_of(None, None, None) is None
