"""Conditions on a result, and what changed since an older one."""

import json
from pathlib import Path

import pytest

from lora_cli.bench.baseline import compare_metrics, metric_change, read_baseline
from lora_cli.bench.live.result import live_metric_names
from lora_cli.bench.measured_run import MEASURED_METRICS
from lora_cli.bench.thresholds import (
    POLICY_METRICS,
    Condition,
    evaluate_conditions,
    is_share,
    parse_condition,
    parse_goals,
)
from lora_cli.errors import MachineError, NotFound, UsageError

KNOWN = ("hit_ratio", "stall_p99_ms", "lru.hit_ratio")


def test_a_condition_is_a_metric_a_comparison_and_a_number() -> None:
    assert parse_condition(" stall_p99_ms <= 5e2", "--fail-if", KNOWN) == Condition("stall_p99_ms", "<=", 500)
    for text, holds in (("hit_ratio>1", False), ("hit_ratio>=1", True), ("hit_ratio<1", False), ("hit_ratio<=1", True)):
        assert parse_condition(text, "--fail-if", KNOWN).holds(1) is holds


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("stal_p99_ms>5", "unknown metric stal_p99_ms", "did you mean stall_p99_ms?"),
        ("lru.hit_ratio < 95", "lru.hit_ratio is at most 1", '--fail-if "lru.hit_ratio<0.95"'),
        ("hit_ratio>1e6", "hit_ratio is at most 1", '--fail-if "hit_ratio>1"'),
        ("hit_ratio", "must be a metric, < or >, and a number", '--fail-if "stall_p99_ms>500"'),
        ("hit_ratio>many", "must be a metric, < or >, and a number", '--fail-if "stall_p99_ms>500"'),
        ("hit_ratio>nan", "must be a metric, < or >, and a number", '--fail-if "stall_p99_ms>500"'),
        ("", "must be a metric, < or >, and a number", '--fail-if "stall_p99_ms>500"'),
    ],
)
def test_a_wrong_condition_is_refused_with_what_was_meant(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_condition(text, "--fail-if", KNOWN)
    assert caught.value.hint == hint


def test_only_parts_of_a_whole_are_at_most_1() -> None:
    shares = {name for name in {*POLICY_METRICS, *MEASURED_METRICS, *live_metric_names()} if is_share(name)}
    assert shares == {
        "hit_ratio",
        "memory_hit_ratio",
        "stalled_ratio",
        "gap_closed",
        "cost_gap_closed",
        "slo_attainment",
        "adapters_slo_attainment",
    }


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


@pytest.mark.parametrize(
    ("metric", "before", "now", "verdict"),
    [
        ("lru.hit_ratio", 0.5, 0.6, "better"),
        ("lru.hit_ratio", 0.5, 0.4, "worse"),
        ("stall_p99_ms", 100, 110, "worse"),
        ("stall_p99_ms", 100, 90, "better"),
        ("stall_p99_ms", 100, 101.9, "same"),
        ("request_throughput", 10, 9, "worse"),
        ("stall_p50_ms", 0, 0.1, "worse"),
        ("stall_p50_ms", 0, 0, "same"),
    ],
)
def test_a_change_is_better_or_worse_by_what_the_metric_is(
    metric: str, before: float, now: float, verdict: str
) -> None:
    assert metric_change(metric, before, now).verdict == verdict


def test_only_what_both_have_is_compared() -> None:
    found = compare_metrics({"a": 1.0, "gone": 2.0}, {"b": 1.0, "a": 3.0, "none": None})
    assert [(one.metric, one.change) for one in found] == [("a", 2.0)]
    assert metric_change("a", 0, 1).change is None


def test_an_older_result_has_metrics_and_one_of_vllm_has_numbers_at_its_top(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"num_prompts": 3, "metrics": {"a": 1, "b": None, "c": 2.5}}))
    assert read_baseline(file).metrics == {"a": 1.0, "c": 2.5}
    file.write_text(json.dumps({"mean_ttft_ms": 12.5, "backend": "vllm", "itls": [], "ok": True}))
    assert read_baseline(file).metrics == {"mean_ttft_ms": 12.5}


@pytest.mark.parametrize(
    ("schema", "kind"), [("baseline", "a baseline of validate"), ("validate", "a JSON report of validate")]
)
def test_a_file_of_another_command_is_named(schema: str, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    file.write_text(json.dumps({"schema": f"lora_cli/{schema}/1", "findings": [], "metrics": {"a": 1}}))

    with pytest.raises(UsageError) as caught:
        read_baseline(file)
    assert caught.value.message == f"--baseline {file}: this is {kind}, but must be a result of serve-bench"


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    for text in ("", "[]", "{}", '{"metrics": 3}', '{"metrics": {"a": "1"}}'):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"--baseline .*old\.json"):
            read_baseline(file)
    with pytest.raises(NotFound):
        read_baseline(tmp_path / "none.json")
    with pytest.raises(MachineError):
        read_baseline(tmp_path)


def test_a_goal_is_what_more_slots_can_make_true() -> None:
    assert parse_goals(["hit_ratio>=.95, stall_p99_ms<300"]) == (
        Condition("hit_ratio", ">=", 0.95),
        Condition("stall_p99_ms", "<", 300),
    )
    for text in ("hit_ratio<.5", "stall_p99_ms>3"):
        with pytest.raises(UsageError, match="more slots only make it worse"):
            parse_goals([text])
    with pytest.raises(UsageError, match="unknown metric gap_closed"):
        parse_goals(["gap_closed>0.5"])
