"""Synthetic workloads: which adapters are requested, in which order, when, and with how many tokens; seeded.

A seed gives the same trace on every machine.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from lora_cli.bench.popularity import AnyPopularity
from lora_cli.bench.random_streams import RandomStream
from lora_cli.bench.trace import MOST_TOKENS, Trace
from lora_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Lengths:
    """From the least to the most, both included."""

    least: int
    most: int

    def draw(self, stream: RandomStream) -> int:
        """One of them."""
        return self.least if self.least == self.most else self.least + stream.below(self.most - self.least + 1)


def parse_lengths(text: str, flag: str) -> Lengths:
    """``128``, or ``8-512``.

    Raises:
        UsageError: it is neither.
    """
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first, first]
    if all(one.isascii() and one.isdecimal() and len(one) <= 8 for one in numbers):
        least, most = map(int, numbers)
        if least <= most <= MOST_TOKENS and most:
            return Lengths(least, most)
    raise UsageError(f"{flag} {text[:60]}: must be a number of tokens, or a range", hint=f"{flag} 128, {flag} 8-512")


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
    stream = RandomStream.derive("arrivals", seed)
    times = list(accumulate(stream.gamma(burstiness) for _ in range(requests)))
    stretch = requests / request_rate / times[-1] if times and times[-1] > 0 else 0.0
    return array("d", (round(time * stretch, MICROSECONDS) for time in times))


@dataclass(frozen=True, slots=True)
class SyntheticWorkload:
    """The parameters of a workload; the same ones give the same trace on every machine."""

    popularity: AnyPopularity
    requests: int
    seed: int = 0
    request_rate: float = inf
    burstiness: float = 1.0
    input_len: Lengths = Lengths(128, 128)
    output_len: Lengths = Lengths(16, 16)


def make_requests(names: Sequence[str], traffic: SyntheticWorkload) -> Trace:
    """The trace of ``traffic`` over these adapters, the most popular first; more requests begin with the same names."""
    number, seed = traffic.requests, traffic.seed
    lengths = RandomStream.derive("lengths", seed)
    tokens = [(traffic.input_len.draw(lengths), traffic.output_len.draw(lengths)) for _ in range(number)]
    draws, cumulative_weights = RandomStream(seed), list(accumulate(traffic.popularity.weights(names)))
    return Trace(
        tuple(names),
        array("I", (draws.index_by_weight(cumulative_weights) for _ in range(number))),
        arrival_times(number, traffic.request_rate, traffic.burstiness, seed),
        array("I", (one for one, _ in tokens)),
        array("I", (one for _, one in tokens)),
    )


def parse_rate(text: str, flag: str) -> float:
    """A number above 0, or ``inf``.

    Raises:
        UsageError: it is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0 or (1e9 < value < inf) or value < 1e-6:
        raise UsageError(f"{flag} {text[:60]}: must be a number above 0, or inf", hint=f"{flag} 10")
    return value
