"""What is counted of an attempt, as the engine's registry shows it."""

from prometheus_client import REGISTRY

from lora_cli.isolation import Admission
from lora_cli.plugins.metrics import observe
from lora_cli.results import LoadReport


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_an_attempt_is_counted_by_outcome_stage_and_bytes_and_a_failing_adapter_is_named() -> None:
    before = value("lora_cli_downloaded_bytes_total"), value("lora_cli_resolve_seconds_total", stage="fetch")
    observe(Admission(LoadReport("sql", stage_ms={"fetch": 1500.0}), size=1000), is_listed=True)
    observe(Admission(LoadReport("sql", stage_ms={}), size=1000, cached=True), is_listed=True)
    assert value("lora_cli_downloaded_bytes_total") == before[0] + 1000
    assert value("lora_cli_resolve_seconds_total", stage="fetch") == before[1] + 1.5
    for code, error, outcome, rule, is_listed in (
        (1, "LC501 not-finite: …", "refused", "LC501", False),
        (3, "there is no such adapter", "not-found", "fetch", True),
        (3, "there is no LC501", "not-found", "", False),
        (4, "…", "unavailable", "fetch", False),
        (5, "…", "corrupt", "fetch", False),
        (70, "…", "failed", "fetch", False),
    ):
        seen = value("lora_cli_resolutions_total", outcome=outcome)
        observe(Admission(LoadReport("sql", stage="fetch", error=error, exit_code=code)), is_listed=is_listed)
        assert value("lora_cli_resolutions_total", outcome=outcome) == seen + 1
        assert value("lora_cli_adapter_failed", adapter="sql", rule=rule) == bool(rule)
    observe(Admission(LoadReport("sql")), is_listed=False)
    assert value("lora_cli_adapter_failed", adapter="sql", rule="fetch") == 0
