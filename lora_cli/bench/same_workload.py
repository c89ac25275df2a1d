"""Whether two results are of the same workload: only then do their metrics compare."""

from collections.abc import Iterator, Mapping
from typing import Any

from lora_cli.bench.report import BenchReport, LiveReport, WorkloadDifference
from lora_cli.core.text import cut, safe

OF_A_RUN = ("mode", "num_prompts", "adapters", "burstiness", "max_concurrency")
"""Keys at the top of a result that say what was asked of the server."""
ELSEWHERE = ("request_rate", "burstiness", "max_concurrency", "ramp_up", "trace")
"""Words of a workload that are compared as other keys, or by the numbers of their requests."""
UNSET = "not set"


def differences(before: Mapping[str, Any], report: BenchReport) -> tuple[WorkloadDifference, ...]:
    """What both results say of their workloads, and not the same; ``before`` is the older document, untrusted.

    A trace that is replayed may be what another run made: only the numbers of its requests are compared then.
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
            yield key, _told(before[key]), _told(now[key])
    if "request_rate" in before and not (old and new and "ramp_up" in old and "ramp_up" in new):
        rates = [(words or {}).get("request_rate", one["request_rate"]) for words, one in ((old, before), (new, now))]
        yield "request_rate", _told(rates[0]), _told(rates[1])
    if old is None or new is None:
        return
    if "trace" in old and "trace" in new:
        yield "trace", _file(old["trace"]), _file(new["trace"])
    elif "trace" not in old and "trace" not in new:
        seeds = "seeds" if "seeds" in before and "seeds" in now else "seed"
        yield seeds, _told(before.get(seeds)), _told(now[seeds])
        for key in dict.fromkeys([*old, *new]):
            if key == "ramp_up" or key not in ELSEWHERE:
                yield cut(safe(key)), _told(old.get(key)), _told(new.get(key))


def _file(value: object) -> str:
    """The name of a trace: its folder says nothing of it."""
    return _told(value).rpartition("/")[2]


def _told(value: object) -> str:
    """A value for people; numbers are the same whatever they are written like."""
    if isinstance(value, list | tuple):
        return cut(", ".join(map(_told, value[:100])))
    if value is None:
        return UNSET
    try:
        return f"{float(value):.6g}" if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    except (ValueError, OverflowError):
        return cut(safe(value))
