"""When requests come: Gamma gaps as ``vllm bench serve`` has them, the same on every machine."""

from array import array
from itertools import accumulate
from math import inf

from lora_cli.bench.draws import Draws
from lora_cli.bench.ramp import Ramp

MICROSECONDS = 6
"""Decimals that a time keeps: as many as a trace's file has."""


def arrival_times(requests: int, request_rate: float, burstiness: float, seed: int) -> "array[float]":
    """Seconds from the start of the run, one for each request, rising.

    The gaps are Gamma variates of shape ``burstiness``: 1 is Poisson, less comes in bursts (their coefficient of
    variation is ``1 / sqrt(burstiness)``), and with an infinite one they are all equal. As in vLLM the last request
    comes at ``requests / request_rate`` exactly. With an infinite rate all come at 0.
    """
    if request_rate == inf:
        return array("d", bytes(8 * requests))
    if burstiness == inf:
        return array("d", (round(number / request_rate, MICROSECONDS) for number in range(1, requests + 1)))
    draws = Draws.apart("arrivals", seed)
    times = list(accumulate(draws.gamma(burstiness) for _ in range(requests)))
    stretch = requests / request_rate / times[-1] if times and times[-1] > 0 else 0.0
    return array("d", (round(time * stretch, MICROSECONDS) for time in times))


def ramped_times(requests: int, ramp: Ramp, burstiness: float, seed: int) -> "array[float]":
    """The same at a rate that rises: each gap is of the rate at its request, and nothing is stretched, as in vLLM."""
    draws = Draws.apart("arrivals", seed)
    gaps = (
        (1.0 if burstiness == inf else draws.gamma(burstiness) / burstiness) / ramp.rate(number, requests)
        for number in range(requests)
    )
    return array("d", (round(time, MICROSECONDS) for time in accumulate(gaps)))
