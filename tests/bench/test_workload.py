from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.popularity import FAMILIES, SCALE, parse_popularity
from lora_cli.errors import UsageError
from tests.requested import requested

NAMES = [f"a{i}" for i in range(100)]


def shares(popularity: str, requests: int = 50_000) -> list[float]:
    """How often each name comes, as a share, in the order of the names."""
    counts = Counter(requested(NAMES, parse_popularity(popularity), requests, seed=0))
    return [counts[name] / requests for name in NAMES]


def test_weights_are_exact_to_the_last_digit() -> None:
    assert parse_popularity("zipf:0.83").weights(NAMES[:4]) == (
        SCALE,
        562529242344404695,
        401780965982173735,
        316439148492569989,
    )


def test_a_longer_trace_begins_with_the_shorter_one() -> None:
    zipf = parse_popularity("zipf:1.0")
    assert requested(NAMES, zipf, 1000, 5)[:100] == requested(NAMES, zipf, 100, 5)


def test_zipf_is_inverse_to_the_rank() -> None:
    found = shares("zipf:1.0")
    harmonic = sum(1 / rank for rank in range(1, 101))
    for rank in (1, 2, 10):
        assert found[rank - 1] == pytest.approx(1 / rank / harmonic, rel=0.1)


def test_uniform_is_even() -> None:
    assert max(shares("uniform")) < 0.0125
    assert min(shares("uniform")) > 0.0075


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip:1", "unknown family"),
        ("", "unknown family"),
        ("uniform:1", "uniform has no parameter"),
        ("zipf:", "the parameter is a number from 0 to 10"),
        ("zipf:x", "the parameter is a number from 0 to 10"),
        ("zipf:nan", "the parameter is a number from 0 to 10"),
        ("zipf:inf", "the parameter is a number from 0 to 10"),
        ("zipf:-1", "the parameter is a number from 0 to 10"),
        ("zipf:1" + "0" * 30, "the parameter is a number from 0 to 10"),
    ],
)
def test_a_wrong_popularity_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_popularity(text)


@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, 300))
def test_every_adapter_can_come_and_none_beats_one_before_it(family: str, adapters: int) -> None:
    found = parse_popularity(family).weights(["a"] * adapters)
    assert len(found) == adapters
    assert min(found) >= 1
    assert list(found) == sorted(found, reverse=True)


@given(st.sampled_from(sorted(FAMILIES)))
def test_a_popularity_is_what_its_text_says(family: str) -> None:
    popularity = parse_popularity(family)
    assert parse_popularity(str(popularity)) == popularity
