"""An older result as the baseline of a new one: what changed, and whether both are of the same workload."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cli.bench.report import BenchReport, ChangeVerdict, LiveReport, MetricChange, WorkloadDifference
from lora_cli.bench.result_file import HINT, read_result
from lora_cli.bench.thresholds import more_is_better
from lora_cli.core import parse
from lora_cli.core.text import cut, safe
from lora_cli.errors import FormatError, UsageError


@dataclass(frozen=True, slots=True)
class Baseline:
    """An older result: its document, and its ``metrics`` or (of another tool's result) every number at its top."""

    file: Path
    document: Mapping[str, Any]
    metrics: Mapping[str, float]


def read_baseline(file: Path) -> Baseline:
    """The older result that is in ``file``.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no result.
        MachineError: it cannot be read.
    """
    document = read_result(file, "--baseline")
    schema = document.get("schema")
    command = re.match("lora_cli/([a-z-]{1,40})/", schema) if isinstance(schema, str) else None
    if command is not None and command[1] != "serve-bench":
        kind = "a baseline of validate" if command[1] == "baseline" else f"a JSON report of {command[1]}"
        raise UsageError(f"--baseline {file}: this is {kind}, but must be a result of serve-bench", hint=HINT)
    try:
        found = parse.mapping(document.get("metrics", document), f"{file}: metrics")
    except FormatError as error:
        raise UsageError(f"--baseline {error.message}", hint=HINT) from error
    numbers = {name: float(value) for name, value in found.items() if type(value) in (int, float)}
    if not numbers:
        raise UsageError(f"--baseline {file}: it has no numbers", hint=HINT)
    return Baseline(file, document, numbers)


SAME_SHARE = 0.02
"""A relative change below this counts as none."""


def compare_metrics(before: Mapping[str, float], now: Mapping[str, float | None]) -> tuple[MetricChange, ...]:
    """The change of every metric that both results have, in the order of the new one."""
    pairs = ((metric, before.get(metric), value) for metric, value in now.items())
    return tuple(metric_change(metric, old, new) for metric, old, new in pairs if old is not None and new is not None)


def metric_change(metric: str, before: float, now: float) -> MetricChange:
    """One metric before and now."""
    verdict: ChangeVerdict = "better" if (now > before) == more_is_better(metric) else "worse"
    if abs(now - before) <= SAME_SHARE * abs(before):
        verdict = "same"
    return MetricChange(metric, before, now, (now - before) / abs(before) if before else None, verdict)


OF_A_RUN = ("mode", "num_prompts", "adapters", "burstiness", "max_concurrency")
"""Top-level keys of a result that describe its workload."""
ELSEWHERE = ("request_rate", "burstiness", "max_concurrency", "ramp_up", "trace")
"""Keys of the workload that are compared elsewhere."""
UNSET = "not set"


def workload_differences(before: Mapping[str, Any], report: BenchReport) -> tuple[WorkloadDifference, ...]:
    """The differences between the workloads of two results; ``before`` is the older, untrusted document.

    A replayed trace may be the saved trace of the other run: only the numbers of requests are compared then.
    """
    pairs = [*_pairs(before, _document(report))]
    return tuple(WorkloadDifference(key, old, new) for key, old, new in pairs if old != new)


def _document(report: BenchReport) -> dict[str, Any]:
    found: dict[str, Any] = {key: getattr(report.setting, key) for key in ("mode", "adapters", "seed", "workload")}
    run = ("num_prompts", "request_rate", "burstiness", "max_concurrency")
    found |= {key: getattr(report.run, key) for key in run}
    return found | ({"seeds": report.result.seeds} if isinstance(report.result, LiveReport) else {})


def _pairs(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    old, new = (one["workload"] if isinstance(one.get("workload"), dict) else None for one in (before, now))
    for key in OF_A_RUN:
        if key in before:
            yield key, _as_text(before[key]), _as_text(now[key])
    if "request_rate" in before and not (old and new and "ramp_up" in old and "ramp_up" in new):
        rates = [(words or {}).get("request_rate", one["request_rate"]) for words, one in ((old, before), (new, now))]
        yield "request_rate", _as_text(rates[0]), _as_text(rates[1])
    if old is None or new is None:
        return
    if "trace" in old and "trace" in new:
        yield "trace", _file(old["trace"]), _file(new["trace"])
    elif "trace" not in old and "trace" not in new:
        seeds = "seeds" if "seeds" in before and "seeds" in now else "seed"
        yield seeds, _as_text(before.get(seeds)), _as_text(now[seeds])
        for key in dict.fromkeys([*old, *new]):
            if key == "ramp_up" or key not in ELSEWHERE:
                yield cut(safe(key)), _as_text(old.get(key)), _as_text(new.get(key))


def _file(value: object) -> str:
    """The file name of a trace, without its folder."""
    return _as_text(value).rpartition("/")[2]


def _as_text(value: object) -> str:
    """A value as text; equal numbers give the same text."""
    if isinstance(value, list | tuple):
        return cut(", ".join(map(_as_text, value[:100])))
    if value is None:
        return UNSET
    try:
        return f"{float(value):.6g}" if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    except (ValueError, OverflowError):
        return cut(safe(value))
