"""Workloads: which adapters are requested, in which order, when and with how many tokens, drawn from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from lora_cli import parse
from lora_cli.errors import FormatError, UsageError
from lora_cli.text import quoted

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 16
EXAMPLE = 'a line is {"t": 0.25, "adapter": "sql"}, or only "sql"'


class Request(NamedTuple):
    """One request: the adapter, seconds from the start of the run (None: it has no time), and tokens in and out."""

    adapter: str
    time_s: float | None = None
    prompt_tokens: int = PROMPT_TOKENS
    output_tokens: int = OUTPUT_TOKENS


def read_trace(file: Path) -> list[Request]:
    """The requests of a file, ordered by their times, the first of them at 0.

    Raises:
        LoraCliError: it cannot be read, has no requests, or a line is wrong: the message has its number.
    """
    from lora_cli.documents.document import read_text

    found = []
    for number, line in enumerate(read_text(file, "trace").split("\n"), 1):
        if line.strip():
            try:
                found.append(_request(parse.json_value(line.encode(), "")))
            except FormatError as error:
                raise UsageError(f"{file}: line {number}: {error.message}", hint=EXAMPLE) from error
    if not found:
        raise UsageError(f"{file}: the trace has no requests", hint=EXAMPLE)
    times_s = [one.time_s for one in found if one.time_s is not None]
    if not times_s:
        return found
    if len(times_s) < len(found):
        raise UsageError(f"{file}: {len(found) - len(times_s)} of {len(found)} requests have no t", hint=EXAMPLE)
    ordered = sorted(zip(times_s, found, strict=True), key=lambda timed: timed[0])
    return [one._replace(time_s=time_s - ordered[0][0]) for time_s, one in ordered]


def _request(value: Any) -> Request:
    if isinstance(value, str):
        return Request(value)
    fields = parse.mapping(value, "")
    time_s = fields.get("t")
    return Request(
        parse.text(parse.required(fields, "adapter", ""), "adapter"),
        None if time_s is None else parse.number(time_s, "t"),
        parse.integer(fields.get("prompt_tokens", PROMPT_TOKENS), "prompt_tokens", minimum=1),
        parse.integer(fields.get("output_tokens", OUTPUT_TOKENS), "output_tokens", minimum=1),
    )


Range = tuple[int, int]
"""The least and the most, both included."""

LARGEST_EXPONENT = 10.0


def parse_popularity(text: str) -> float:
    """The exponent s of Zipf's law: the adapter of rank i has the weight i^-s. ``uniform`` (0) or ``zipf:1.0``.

    Raises:
        UsageError: it is neither.
    """
    if text == "uniform":
        return 0.0
    family, _, number = text.partition(":")
    try:
        exponent = float(number or 1)
    except ValueError:
        exponent = -1.0
    if family != "zipf" or not 0 <= exponent <= LARGEST_EXPONENT:
        raise UsageError(f"--popularity {quoted(text)}: is none", hint="zipf:1.0 or uniform")
    return exponent


def parse_range(text: str, flag: str) -> Range:
    """``128``, or ``8-512``. Raises ``UsageError``."""
    words = text.split("-")
    if len(words) <= 2 and all(word.isascii() and word.isdecimal() and len(word) < 9 for word in words):
        least, most = int(words[0]), int(words[-1])
        if 1 <= least <= most:
            return least, most
    raise UsageError(f"{flag} {quoted(text)}: must be a number of tokens, or a range", hint=f"{flag} 8-512")


def parse_rate(text: str) -> float:
    """Requests per second, above 0; infinite: all at once. Raises ``UsageError``."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise UsageError(f"--request-rate {quoted(text)}: must be a number above 0, or inf")
    return value


@dataclass(frozen=True, slots=True)
class Workload:
    """What is drawn: the adapter of rank i with the weight i^-``exponent`` (Zipf's law).

    Without a ``request_rate`` the requests have no times; with an infinite one all are at 0.
    """

    exponent: float
    requests: int
    seed: int = 0
    request_rate: float | None = None
    input_len: Range = (PROMPT_TOKENS, PROMPT_TOKENS)
    output_len: Range = (OUTPUT_TOKENS, OUTPUT_TOKENS)


def make_requests(names: Sequence[str], load: Workload) -> list[Request]:
    """The requests over these adapters, the most popular first; none without adapters.

    Each purpose has random numbers of its own.
    """
    if not names:
        return []
    order, lengths = (random.Random(f"{purpose} {load.seed}") for purpose in ("adapters", "lengths"))  # noqa: S311
    weights = [rank**-load.exponent for rank in range(1, len(names) + 1)]
    chosen = order.choices(names, weights, k=load.requests)
    times = _arrivals(load)
    return [
        Request(name, times[at] if times else None, lengths.randint(*load.input_len), lengths.randint(*load.output_len))
        for at, name in enumerate(chosen)
    ]


def _arrivals(load: Workload) -> list[float]:
    """Seconds from the start; empty without a rate.

    They are a Poisson process, and as in ``vllm bench serve`` the last request comes at ``requests / request_rate``
    exactly.
    """
    if load.request_rate is None:
        return []
    if load.request_rate == inf:
        return [0.0] * load.requests
    draw = random.Random(f"arrivals {load.seed}")  # noqa: S311 - a workload, not a secret
    times = list(accumulate(draw.expovariate(1.0) for _ in range(load.requests)))
    stretch = load.requests / load.request_rate / (times[-1] or 1.0)
    return [time * stretch for time in times]
