"""Requests: drawn as asked, or read from a trace; what is wrong is said with its place."""

from collections import Counter
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import mean, stdev

import pytest

from lora_cli.bench.workload import (
    Request,
    Workload,
    make_requests,
    parse_popularity,
    parse_range,
    parse_rate,
    read_trace,
)
from lora_cli.errors import UsageError

NAMES = [f"a{number}" for number in range(100)]


def shares(exponent: float) -> list[float]:
    counts = Counter(one.adapter for one in make_requests(NAMES, Workload(exponent, 50_000)))
    return [counts[name] / 50_000 for name in NAMES]


def test_adapters_come_as_often_as_asked() -> None:
    zipf, harmonic = shares(parse_popularity("zipf")), sum(1 / rank for rank in range(1, 101))
    for rank in (1, 2, 10):
        assert zipf[rank - 1] == pytest.approx(1 / rank / harmonic, rel=0.1)
    assert all(0.0075 < share < 0.0125 for share in shares(parse_popularity("uniform")))


def test_gaps_are_of_a_poisson_process_and_the_last_one_comes_when_the_rate_says() -> None:
    rate = 10.0
    made = make_requests(["a"], Workload(1.0, 50_000, 1, rate))
    times = [one.time_s for one in made if one.time_s is not None]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(50_000 / rate)
    assert stdev(gaps) / mean(gaps) == pytest.approx(1, rel=0.05)


def test_a_seed_is_a_workload_and_each_option_changes_only_what_it_says() -> None:
    def made(seed: int = 3, rate: float | None = 5.0, requests: int = 300) -> list[Request]:
        return make_requests(NAMES, Workload(1.0, requests, seed, rate, (1, 50), (7, 7)))

    assert made() == made() != made(seed=4)
    assert [one.adapter for one in made(requests=20)] == [one.adapter for one in made()][:20]
    assert {one.time_s for one in made(rate=None)} == {None}
    assert {one.time_s for one in made(rate=inf)} == {0.0}
    assert [one._replace(time_s=None) for one in made()] == made(rate=None)
    assert {one.prompt_tokens for one in made()} == set(range(1, 51))
    assert {one.output_tokens for one in made()} == {7}
    assert make_requests([], Workload(1.0, 5)) == []


def test_lengths_and_rates_are_numbers() -> None:
    assert (parse_range("128", "-"), parse_range("8-512", "-")) == ((128, 128), (8, 512))
    for text in ("", "0", "9-8", "1-2-3", "x", "-5", "1" * 9):
        with pytest.raises(UsageError, match="--input-len"):
            parse_range(text, "--input-len")
    assert (parse_rate("0.5"), parse_rate("inf")) == (0.5, inf)
    for text in ("0", "-1", "nan", "x"):
        with pytest.raises(UsageError, match="--request-rate"):
            parse_rate(text)
    for text in ("zip:1", "zipf:nan", "zipf:11"):
        with pytest.raises(UsageError, match="--popularity"):
            parse_popularity(text)


def test_a_trace_is_read_by_its_times_or_is_names_alone(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('"a"\n{"adapter": "b", "prompt_tokens": 3, "other": 1}\n\n"a"')
    assert read_trace(tmp_path / "t") == [Request("a"), Request("b", None, 3), Request("a")]
    (tmp_path / "t").write_text('{"adapter": "a", "t": 5}\n{"adapter": "b", "t": -1.5, "output_tokens": 2}')
    assert read_trace(tmp_path / "t") == [Request("b", 0.0, output_tokens=2), Request("a", 6.5)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"a"\n{', "line 2: not JSON"),
        ('"a"\n[]', "line 2: must be an object, not a list"),
        ("{}", "line 1: adapter is missing"),
        ('{"adapter": 1}', "line 1: adapter: must be a string"),
        ('{"adapter": "a", "t": NaN}', "line 1: t: must be finite"),
        ('{"adapter": "a", "output_tokens": 0}', "line 1: output_tokens: must be at least 1"),
        ('"a"\n{"adapter": "a", "t": 1}', "1 of 2 requests have no t"),
        ("\n\n", "the trace has no requests"),
    ],
)
def test_a_wrong_line_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_trace(tmp_path / "trace.jsonl")
    assert caught.value.message.startswith(f"{tmp_path / 'trace.jsonl'}: {said}")
