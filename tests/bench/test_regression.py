"""Conditions on a result."""

import pytest

from lora_cli.bench.thresholds import Condition, evaluate_conditions, parse_condition
from lora_cli.errors import UsageError

KNOWN = ("hit_ratio", "ttft_p99_ms", "lru.hit_ratio")


def test_a_condition_is_a_metric_a_comparison_and_a_number() -> None:
    assert parse_condition(" ttft_p99_ms <= 5e2", "--fail-if", KNOWN) == Condition("ttft_p99_ms", "<=", 500)
    for text, holds in (("hit_ratio>1", False), ("hit_ratio>=1", True), ("hit_ratio<1", False), ("hit_ratio<=1", True)):
        assert parse_condition(text, "--fail-if", KNOWN).holds(1) is holds


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("tft_p99_ms>5", "unknown metric tft_p99_ms", "did you mean ttft_p99_ms?"),
        ("lru.hit_ratio < 95", "lru.hit_ratio is at most 1", '--fail-if "lru.hit_ratio<0.95"'),
        ("hit_ratio>1e6", "hit_ratio is at most 1", '--fail-if "hit_ratio>1"'),
        ("hit_ratio", "must be a metric, < or >, and a number", '--fail-if "ttft_p99_ms>500"'),
        ("hit_ratio>many", "must be a metric, < or >, and a number", '--fail-if "ttft_p99_ms>500"'),
        ("hit_ratio>nan", "must be a metric, < or >, and a number", '--fail-if "ttft_p99_ms>500"'),
        ("", "must be a metric, < or >, and a number", '--fail-if "ttft_p99_ms>500"'),
    ],
)
def test_a_wrong_condition_is_refused_with_what_was_meant(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_condition(text, "--fail-if", KNOWN)
    assert caught.value.hint == hint


def test_a_run_fails_for_what_is_true_and_for_what_is_not_known() -> None:
    conditions = [Condition("a", ">", 1), Condition("b", ">", 1), Condition("c", ">", 1)]
    found = evaluate_conditions(conditions, {"a": 2.0, "b": 1.0, "c": None})
    assert [one.failed for one in found] == [True, False, True]
    assert [str(one) for one in found] == [
        "a > 1 is true: the value is 2",
        "b > 1 is not true: the value is 1",
        "c > 1: there is no value",
    ]
    assert evaluate_conditions(conditions[:1], {})[0].failed
