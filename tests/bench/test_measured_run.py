"""The metrics of a measured run, by name."""

import pytest

from lora_cli.bench.measured_run import MEASURED_METRICS, measured_metrics
from lora_cli.bench.report import MeasurementReport
from lora_cli.bench.simulator import policy_report
from lora_cli.bench.thresholds import POLICY_METRICS, simulation_metric_names, simulation_metrics

LATENCY = {"gpu": (1.0, 3.0, 2.0), "cpu": (), "disk": (100.0, 40.0), "remote": (200.0,)}


def result(latency_ms: dict[str, tuple[float, ...]]) -> MeasurementReport:
    hits = {tier: len(values) for tier, values in latency_ms.items()}
    return MeasurementReport(8, 1, 2, hits, {}, latency_ms, {})


def test_cold_is_what_was_on_disk_or_elsewhere() -> None:
    found = measured_metrics(result(LATENCY))
    assert set(found) == MEASURED_METRICS
    assert (found["hot_ttft_p50_ms"], found["cold_ttft_p50_ms"], found["cold_ttft_max_ms"]) == (2, 100, 200)
    assert found["cold_penalty_ms"] == 98
    assert (found["completed"], found["failed"], found["hit_ratio"]) == (6, 2, 0.5)
    assert found["duration"] == pytest.approx(0.346)
    assert found["request_throughput"] == pytest.approx(6 / 0.346)
    assert found["warm_ttft_p99_ms"] is None


def test_when_nothing_is_answered_nothing_is_known() -> None:
    found = measured_metrics(result({}))
    assert set(found) == MEASURED_METRICS
    assert {name for name, value in found.items() if value is not None} == {"completed", "failed", "duration"}


def test_a_simulation_has_the_metrics_that_conditions_are_checked_against() -> None:
    one = policy_report("online", 4, {"gpu": 1, "cpu": 2, "disk": 1}, 6.0, {}, [0.0, 1.0, 2.0, 3.0])
    alone = simulation_metrics({"lru": one})
    assert set(alone) == simulation_metric_names(("lru",))
    assert (alone["hit_ratio"], alone["lru.memory_hit_ratio"], alone["stall_p99_ms"]) == (0.25, 0.75, 3)
    both = simulation_metrics({"lru": one, "lfu": one})
    assert set(both) == simulation_metric_names(("lru", "lfu"))
    assert not set(both) & set(POLICY_METRICS)
