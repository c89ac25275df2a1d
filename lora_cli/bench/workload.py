"""Synthetic workloads: which adapters are requested, in which order, when, and with how many tokens; seeded.

A seed gives the same trace on every machine. An access pattern (independent, drift, scan, sessions) is an endless
iterator over indices of adapters, drawn by popularity: from ``cumulative_weights``, as ``RandomStream.index_by_weight``
takes them.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, cycle, islice
from math import inf

from lora_cli.bench.popularity import ROUND_ROBIN_FAMILIES, AnyPopularity
from lora_cli.bench.random_streams import RandomStream, exp, log
from lora_cli.bench.trace import MOST_TOKENS, Trace
from lora_cli.errors import UsageError


def independent(stream: RandomStream, cumulative_weights: Sequence[int]) -> Iterator[int]:
    """Each request is drawn by popularity, whatever came before it."""
    while True:
        yield stream.index_by_weight(cumulative_weights)


def drift(stream: RandomStream, cumulative_weights: Sequence[int], percent: int, every: int) -> Iterator[int]:
    """After each ``every`` requests, ``percent`` of the adapters change places in popularity (100: all of them)."""
    order = list(range(len(cumulative_weights)))
    moved = len(order) * percent // 100
    for number in count():
        if number and number % every == 0:
            places = stream.shuffled(range(len(order)))[:moved]
            for place, one in zip(places, stream.shuffled([order[place] for place in places]), strict=True):
                order[place] = one
        yield order[stream.index_by_weight(cumulative_weights)]


def scan(stream: RandomStream, cumulative_weights: Sequence[int], percent: int) -> Iterator[int]:
    """``percent`` of the requests cycle through all adapters, the others are drawn by popularity."""
    turn = cycle(range(len(cumulative_weights)))
    while True:
        yield next(turn) if stream.below(100) < percent else stream.index_by_weight(cumulative_weights)


def sessions(stream: RandomStream, cumulative_weights: Sequence[int], users: int, turns: int) -> Iterator[int]:
    """``users`` at once, each with one adapter for ``turns`` requests, then another; users are drawn at random."""
    chosen = [stream.index_by_weight(cumulative_weights) for _ in range(users)]
    left = [1 + stream.below(turns) for _ in range(users)]
    while True:
        user = stream.below(users)
        if not left[user]:
            chosen[user], left[user] = stream.index_by_weight(cumulative_weights), turns
        left[user] -= 1
        yield chosen[user]


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


STRATEGIES = ("linear", "exponential")


@dataclass(frozen=True, slots=True)
class Ramp:
    """From ``start`` requests a second at the first one to ``end`` at the last."""

    strategy: str
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.strategy} {self.start:g}-{self.end:g}"

    def rate(self, number: int, requests: int) -> float:
        """Requests a second when request ``number`` of so many is next."""
        progress = number / max(requests - 1, 1)
        if self.strategy == "linear":
            return self.start + (self.end - self.start) * progress
        return self.start * exp(log(self.end / self.start) * progress)


def ramp_of(strategy: str | None, start: int | None, end: int | None) -> Ramp | None:
    """The ramp of the options, if any.

    Raises:
        UsageError: a part of it is missing or wrong.
    """
    if strategy is None and start is None and end is None:
        return None
    if strategy not in STRATEGIES or start is None or end is None or start > end:
        raise UsageError(
            "a ramp is linear or exponential, and goes up from one rate to another",
            hint="--ramp-up-strategy linear --ramp-up-start-rps 1 --ramp-up-end-rps 20",
        )
    return Ramp(strategy, float(start), float(end))


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


def ramped_times(requests: int, ramp: Ramp, burstiness: float, seed: int) -> "array[float]":
    """The same at a rate that rises: each gap is of the rate at its request, and nothing is stretched, as in vLLM."""
    stream = RandomStream.derive("arrivals", seed)
    gaps = (
        (1.0 if burstiness == inf else stream.gamma(burstiness) / burstiness) / ramp.rate(number, requests)
        for number in range(requests)
    )
    return array("d", (round(time, MICROSECONDS) for time in accumulate(gaps)))


MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class AccessPattern:
    """How requests follow each other: ``independent``, ``drift``, ``scan`` or ``sessions``, and its two numbers."""

    kind: str = "independent"
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _PatternKind:
    """An access pattern: its generator, and the names, defaults and maxima of its numbers."""

    places: Callable[..., Iterator[int]]
    names: tuple[str, ...] = ()
    defaults: tuple[int, ...] = ()
    most: tuple[int, ...] = ()


ACCESS_PATTERNS: Mapping[str, _PatternKind] = {
    "independent": _PatternKind(independent),
    "drift": _PatternKind(drift, ("percent", "every"), (20, 5_000), (100, MOST)),
    "scan": _PatternKind(scan, ("percent",), (10,), (100,)),
    "sessions": _PatternKind(sessions, ("users", "turns"), (64, 5), (100_000, MOST)),
}


@dataclass(frozen=True, slots=True)
class SyntheticWorkload:
    """The parameters of a workload; the same ones give the same trace on every machine."""

    popularity: AnyPopularity
    requests: int
    seed: int = 0
    pattern: AccessPattern = AccessPattern()
    request_rate: float = inf
    burstiness: float = 1.0
    input_len: Lengths = Lengths(128, 128)
    output_len: Lengths = Lengths(16, 16)
    ramp: Ramp | None = None


def parse_pattern(kind: str, text: str) -> AccessPattern:
    """``--drift 20,5000`` (percent, every), ``--scan 10`` (percent), ``--sessions 64,5`` (users, turns).

    Numbers may be left out from the end on.

    Raises:
        UsageError: there are too many numbers, or one is not a number or out of bounds.
    """
    known = ACCESS_PATTERNS[kind]
    words = text.split(",")
    numbers = list(known.defaults)
    if len(words) <= len(numbers) and all(one.isascii() and one.isdecimal() and len(one) < 10 for one in words):
        numbers[: len(words)] = map(int, words)
        if all(1 <= one <= most for one, most in zip(numbers, known.most, strict=True)):
            return AccessPattern(kind, tuple(numbers))
    wanted = ", ".join(f"{name} from 1 to {most}" for name, most in zip(known.names, known.most, strict=True))
    hint = f"--{kind} {','.join(map(str, known.defaults))}"
    raise UsageError(f"--{kind} {text[:60]}: must be {wanted}", hint=hint)


def adapter_places(names: Sequence[str], traffic: SyntheticWorkload) -> Iterator[int]:
    """The places of the requested adapters in ``names``, without end."""
    popularity, shape = traffic.popularity, traffic.pattern
    if str(popularity) in ROUND_ROBIN_FAMILIES and shape.kind == "independent":
        return cycle(range(len(names)))
    cumulative_weights = list(accumulate(popularity.weights(names)))
    return ACCESS_PATTERNS[shape.kind].places(RandomStream(traffic.seed), cumulative_weights, *shape.numbers)


def make_requests(names: Sequence[str], traffic: SyntheticWorkload) -> Trace:
    """The trace of ``traffic`` over these adapters, the most popular first; more requests begin with the same names."""
    number, seed = traffic.requests, traffic.seed
    lengths = RandomStream.derive("lengths", seed)
    tokens = [(traffic.input_len.draw(lengths), traffic.output_len.draw(lengths)) for _ in range(number)]
    if traffic.ramp is not None:
        times_s = ramped_times(number, traffic.ramp, traffic.burstiness, seed)
    else:
        times_s = arrival_times(number, traffic.request_rate, traffic.burstiness, seed)
    return Trace(
        tuple(names),
        array("I", islice(adapter_places(names, traffic), number)),
        times_s,
        array("I", (one for one, _ in tokens)),
        array("I", (one for _, one in tokens)),
    )


def chosen_pattern(drift: str | None, scan: str | None, sessions: str | None) -> AccessPattern:
    """The access pattern of the options, or independent requests.

    Raises:
        UsageError: there are several, or one is wrong.
    """
    asked = {kind: text for kind, text in (("drift", drift), ("scan", scan), ("sessions", sessions)) if text}
    if len(asked) > 1:
        raise UsageError(
            f"{' and '.join(f'--{kind}' for kind in asked)} cannot be used together", hint="use only one of them"
        )
    return next((parse_pattern(kind, text) for kind, text in asked.items()), AccessPattern())


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
