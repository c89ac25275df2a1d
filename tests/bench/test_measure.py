"""What a run says of its answers: tiers, latencies, goodput and conditions."""

from math import inf

import pytest

from lora_cli.bench.client import Answer
from lora_cli.bench.measure import failures_of, metrics_of, parse_condition, parse_goodput, with_tiers
from lora_cli.errors import UsageError


def answer(
    name: str = "a",
    at: float = 0.0,
    *,
    held: float = 0.0,
    first: float = 0.1,
    tokens: int = 3,
    tier: str = "",
    error: str = "",
) -> Answer:
    """Scheduled at ``at`` and sent ``held`` later; its first chunk so many seconds after ``at``, the last 0.3 later."""
    times = (inf, inf) if error else (at + first, at + first + 0.3)
    return Answer(name, at, 0.0, at + held, *times, 8, tokens, tier, 40.0 if tier == "disk" else None, error)


def tiers(*answers: Answer, slots: int | None = None, memory: int | None = None) -> list[str]:
    return [one.tier for one in with_tiers(answers, slots, memory)[0]]


def test_latency_counts_from_the_time_that_a_request_was_to_be_sent() -> None:
    found = metrics_of([answer(at=1.0, held=0.05)], {})
    assert found["p50_ttft_ms"] == found["mean_ttft_ms"] == pytest.approx(100)
    assert found["p99_e2el_ms"] == pytest.approx(400)
    assert found["p90_tpot_ms"] == pytest.approx(150)
    assert found["duration"] == pytest.approx(1.4)
    assert found["output_throughput"] == pytest.approx(3 / 1.4)
    assert set(found) == set(metrics_of([], {}))


def test_a_failure_is_infinitely_slow_missed_and_in_no_mean() -> None:
    answers = [answer(), answer(), answer("b", error="500: it broke"), answer("b", error="later")]
    found = metrics_of(answers, {"ttft": 500.0})
    assert (found["completed"], found["failed"], found["max_concurrent_requests"]) == (2, 2, 2)
    assert found["p50_ttft_ms"] == found["mean_ttft_ms"] == pytest.approx(100)
    assert found["p90_ttft_ms"] == inf
    assert found["slo_attainment"] == 0.5
    assert failures_of(answers) == {"b": "2 of its requests failed: 500: it broke"}


@pytest.mark.parametrize(
    ("goodput", "tokens", "good"),
    [("ttft:101,tpot:151 e2el:401", 3, 1), ("ttft:99", 3, 0), ("tpot:149", 3, 0), ("e2el:399", 3, 0), ("tpot:0", 1, 1)],
)
def test_a_request_is_good_when_it_keeps_everything(goodput: str, tokens: int, good: int) -> None:
    assert metrics_of([answer(tokens=tokens)], parse_goodput(goodput))["slo_attainment"] == good


def test_a_server_that_names_tiers_is_believed() -> None:
    answers = [
        answer(tier=tier, first=first) for tier, first in (("disk", 0.9), ("remote", 0.9), ("cpu", 0.2), ("gpu", 0.1))
    ]
    told, why = with_tiers([*answers, answer()], 4, 4)
    assert [one.tier for one in told] == ["cold", "cold", "warm", "hot", ""]
    assert why == "the server names them"
    found = metrics_of(told, {})
    assert found["cold_penalty_ms"] == pytest.approx(700)
    assert [found[f"{tier}_requests"] for tier in ("hot", "warm", "cold")] == [1, 1, 2]
    assert found["cold_p99_ttft_ms"] == pytest.approx(900)
    assert found["p99_load_ms"] == 40


def test_elsewhere_tiers_are_those_of_least_recently_used_slots_and_memory() -> None:
    one_by_one = [answer(name, float(number)) for number, name in enumerate("abacabdac")]
    cold, warm, hot = "cold", "warm", "hot"
    assert tiers(*one_by_one, slots=2, memory=3) == [cold, cold, hot, cold, hot, warm, cold, warm, cold]
    assert tiers(*one_by_one, slots=2) == [cold, cold, hot, cold, hot, cold, cold, cold, cold]
    assert tiers(*one_by_one, memory=3) == [cold, cold, warm, cold, warm, warm, cold, warm, cold]
    assert tiers(*one_by_one) == [cold, cold, warm, cold, warm, warm, cold, warm, warm]
    assert "2 slots, 3 in memory" in with_tiers(one_by_one, 2, 3)[1]


def test_who_is_sent_during_a_load_waits_for_it_and_a_failure_loads_nothing() -> None:
    answers = [answer(at=0.0), answer(at=0.05), answer(at=0.2), answer("b", 1.0, error="x"), answer("b", 2.0)]
    assert tiers(*answers, slots=2) == ["cold", "cold", "hot", "", "cold"]


@pytest.mark.parametrize(
    ("text", "value", "said"),
    [
        ("cold_p99_ttft_ms>500", 501.0, "cold_p99_ttft_ms > 500 is true: the value is 501"),
        ("x >= 5e2", 499.0, "x >= 500 is not true: the value is 499"),
        ("x<1", None, "x < 1: there is no value"),
        ("x<=1", inf, "x <= 1 is not true: the value is inf"),
    ],
)
def test_a_condition_fails_where_it_is_true_or_has_no_value(text: str, value: float | None, said: str) -> None:
    metrics = {text.partition("<")[0].partition(">")[0].strip(): value}
    judged = parse_condition(text, metrics).judged(metrics)
    assert (str(judged), judged.failed) == (said, " not true" not in said)


@pytest.mark.parametrize("text", ["xy<1", "x", "x<", "x<1e", "ttft", "ttft:-1", "itl:5", "ttft:nan"])
def test_a_wrong_condition_or_goodput_is_said(text: str) -> None:
    with pytest.raises(UsageError, match=r"unknown metric|must be|--goodput"):
        parse_goodput(text) if ":" in text or text == "ttft" else parse_condition(text, ["x_ms"])
