"""What changed since an older result, and what a run is failed for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_cli.bench.conditions import Condition
from lora_cli.bench.metrics import more_is_better
from lora_cli.bench.report import ChangeVerdict, ConditionResult, MetricChange
from lora_cli.bench.result_file import HINT, read_result
from lora_cli.core import parse
from lora_cli.errors import FormatError, UsageError

SAME = 0.02
"""A change by less than this part of the older value is none."""


def changes(before: Mapping[str, float], now: Mapping[str, float | None]) -> tuple[MetricChange, ...]:
    """What both results have, in the order of this one."""
    pairs = ((metric, before.get(metric), value) for metric, value in now.items())
    return tuple(metric_change(metric, old, new) for metric, old, new in pairs if old is not None and new is not None)


def metric_change(metric: str, before: float, now: float) -> MetricChange:
    """One metric before and now."""
    verdict: ChangeVerdict = "better" if (now > before) == more_is_better(metric) else "worse"
    if abs(now - before) <= SAME * abs(before):
        verdict = "same"
    return MetricChange(metric, before, now, (now - before) / abs(before) if before else None, verdict)


def judged(conditions: Sequence[Condition], metrics: Mapping[str, float | None]) -> tuple[ConditionResult, ...]:
    """Each condition of ``--fail-if``: a run fails for what is true, and not for what is not known."""
    values = ((one, metrics.get(one.metric)) for one in conditions)
    return tuple(ConditionResult(str(one), value, value is not None and one.holds(value)) for one, value in values)


def read_baseline(file: Path) -> dict[str, float]:
    """The metrics of an older result: its ``metrics``, or (of another tool's result) every number at its top.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no result.
        MachineError: it cannot be read.
    """
    document = read_result(file, "--baseline")
    try:
        found = parse.mapping(document.get("metrics", document), f"{file}: metrics")
    except FormatError as error:
        raise UsageError(f"--baseline {error.message}", hint=HINT) from error
    numbers = {name: float(value) for name, value in found.items() if type(value) in (int, float)}
    if not numbers:
        raise UsageError(f"--baseline {file}: there are no numbers in it", hint=HINT)
    return numbers
