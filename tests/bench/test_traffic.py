"""A whole workload in words, and the trace that it is."""

import hashlib
from collections import Counter
from math import inf

import pytest

from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.trace import Request, trace_lines
from lora_cli.bench.workload import (
    Lengths,
    SyntheticWorkload,
    make_requests,
    parse_lengths,
    parse_rate,
)
from lora_cli.errors import UsageError
from tests.requested import requested

NAMES = [f"a{i}" for i in range(100)]
ZIPF = parse_popularity("zipf:1.0")


def test_a_seed_gives_the_same_trace_to_the_last_byte_on_every_machine() -> None:
    traffic = SyntheticWorkload(ZIPF, 2_000, 7, 20.0, 0.5, Lengths(8, 512), Lengths(1, 64))
    text = "".join(trace_lines(make_requests(NAMES, traffic)))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == "2fa2b887e8cd"
    assert text.splitlines()[0] == '{"t": 0.081689, "adapter": "a2", "prompt_tokens": 247, "output_tokens": 13}'


def test_it_asks_for_whom_the_popularity_says_whatever_else_is_drawn() -> None:
    plain = make_requests(NAMES, SyntheticWorkload(ZIPF, 500, 3))
    assert tuple(plain.keys()) == requested(NAMES, ZIPF, 500, 3)
    timed = make_requests(NAMES, SyntheticWorkload(ZIPF, 500, 3, 5.0, 0.3, Lengths(1, 9), Lengths(2, 7)))
    assert timed.keys() == plain.keys()
    assert (timed.timed, plain.timed) == (True, False)


def test_a_request_has_its_time_adapter_and_tokens() -> None:
    trace = make_requests(["x"], SyntheticWorkload(ZIPF, 2, 0, 2.0, inf, Lengths(5, 5), Lengths(6, 6)))
    assert list(trace) == [Request(0.5, "x", 5, 6), Request(1.0, "x", 5, 6)]


def test_lengths_are_spread_over_their_range() -> None:
    trace = make_requests(NAMES, SyntheticWorkload(ZIPF, 5_000, 0, input_len=Lengths(8, 11)))
    counts = Counter(trace.prompt_tokens)
    assert sorted(counts) == [8, 9, 10, 11]
    assert min(counts.values()) > 1_100
    assert set(trace.output_tokens) == {16}


@pytest.mark.parametrize("text", ["", "x", "8-", "-8", "9-8", "1.5", "0", "99999999999", "1-2-3"])
def test_a_wrong_length_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be a number of tokens, or a range"):
        parse_lengths(text, "--input-len")


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "1e10", "1e-9"])
def test_a_wrong_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be a number above 0, or inf"):
        parse_rate(text, "--request-rate")
    assert parse_rate("inf", "--request-rate") == inf
