"""The error of a simulation: its distance from a live run of the same requests."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

from lora_cli.bench.links import loaded_at_start
from lora_cli.bench.live.result import INFERRED, SERVER
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.report import LiveComparison, LiveError, PolicyReport
from lora_cli.bench.result_file import read_result
from lora_cli.bench.thresholds import metrics_by_policy
from lora_cli.bench.trace import Trace
from lora_cli.core import parse
from lora_cli.core.text import safe
from lora_cli.errors import FormatError, UsageError

ERRORS = tuple(one.name for one in fields(LiveError))
DEFINITIONS = {
    "hit_ratio_error": "the distance between the hit ratios of the simulation and of the live run",
    "stall_p99_error": "the distance between their p99 stalls, divided by that of the live run",
}
"""The definitions of the errors of a simulation."""

HINT = "the result of serve-bench --url URL --trace FILE --save-result, and the same --trace here"
TIME_DIGITS_S = 1e-6

_NUMBER = parse.number_within(-1e9, 1e9)


class LiveRequest(NamedTuple):
    """A request of a live run: seconds from the start, its adapter, kind, load time and time to first token."""

    time_s: float
    adapter: str
    kind: str
    load_ms: float | None
    ttft_ms: float | None


def read_live_run(file: Path, trace: Trace) -> LiveComparison:
    """The hit ratio, stall and start of the first seed in a saved live result; the policies are left empty.

    A later seed begins with the adapters that the one before it left in the slots.

    Raises:
        LoraCliError: the file cannot be read, or is no live result of these requests.
    """
    document = read_result(file, "--live-result")
    try:
        parse.one_of(("live",))(document.get("mode"), f"{file}: mode")
        runs = parse.list_of(parse.mapping)(document.get("runs"), f"{file}: runs")
        requests = _requests(runs[0] if runs else {}, f"{file}: runs[0]")
        at_start = parse.optional(loaded_at_start)(document.get("at_start"), f"{file}: at_start")
    except FormatError as error:
        raise UsageError(f"--live-result {error.message}", hint=HINT) from error
    if not _same(trace, requests):
        raise UsageError(
            f"--live-result {file}: the requests of its first seed differ from the simulated ones", hint=HINT
        )
    reported = document.get("tiers_from") == SERVER
    kinds = [one.kind for one in requests]
    known = len(kinds) - kinds.count("later") - kinds.count("")
    hit_ratio = kinds.count("hot") / known if known and (reported or "hot" in kinds) else None
    stalls = sorted(_stalls_ms(requests, reported=reported))
    p99 = nearest_rank(stalls, 0.99) if stalls else None
    return LiveComparison(safe(file), SERVER if reported else INFERRED, hit_ratio, p99, {}, at_start)


def live_errors(live: LiveComparison, policies: Mapping[str, PolicyReport]) -> dict[str, LiveError]:
    """The errors of each policy that does not know the future."""
    return {
        name: LiveError(
            None if live.hit_ratio is None else abs(one.hit_ratio - live.hit_ratio),
            abs(one.stall_ms["p99"] - live.stall_p99_ms) / live.stall_p99_ms if live.stall_p99_ms else None,
        )
        for name, one in policies.items()
        if one.kind == "online"
    }


def live_error_metrics(errors: Mapping[str, LiveError]) -> dict[str, float | None]:
    """``lru.hit_ratio_error`` and the like."""
    return metrics_by_policy({name: asdict(one) for name, one in errors.items()})


def _requests(run: Mapping[str, Any], where: str) -> list[LiveRequest]:
    """The requests in the order of their times. Raises ``FormatError``."""

    def column(name: str, item: Any) -> Any:
        return parse.list_of(item)(run.get(name), f"{where}: {name}")

    times, starts = column("scheduled_times", _NUMBER), column("start_times", _NUMBER)
    ttfts = column("ttfts", parse.optional(_NUMBER))
    columns = (times, column("adapters", parse.text), column("tiers", parse.text))
    loads = column("load_ms", parse.optional(_NUMBER))
    if len({len(one) for one in (*columns, starts, ttfts, loads)}) > 1:
        raise FormatError("its columns have different lengths", where=where)
    waits = [
        None if ttft is None else (start + ttft - time) * 1e3
        for time, start, ttft in zip(times, starts, ttfts, strict=True)
    ]
    return sorted(map(LiveRequest, *columns, loads, waits), key=lambda one: one.time_s)


def _same(trace: Trace, requests: Sequence[LiveRequest]) -> bool:
    """Whether these are the requests of the trace; without times only the number for each adapter counts."""
    if len(trace) != len(requests):
        return False
    if not trace.timed:
        return sorted(trace.keys()) == sorted(one.adapter for one in requests)
    pairs = sorted((one.time_s, one.adapter) for one in requests)
    ours = sorted(zip(trace.times_s, trace.keys(), strict=True))
    return all(
        isclose(time_s, live_s, abs_tol=TIME_DIGITS_S) and name == live
        for (time_s, name), (live_s, live) in zip(ours, pairs, strict=True)
    )


def _stalls_ms(requests: Sequence[LiveRequest], *, reported: bool) -> list[float]:
    """Milliseconds that each answered request waited for its adapter; empty if no request was hot."""
    if reported:
        return [one.load_ms or 0.0 for one in requests if one.kind]
    answered = [(one.kind, one.ttft_ms) for one in requests if one.ttft_ms is not None]
    hot = sorted(ttft_ms for kind, ttft_ms in answered if kind == "hot")
    usual_ms = nearest_rank(hot, 0.5) if hot else 0.0
    return [max(ttft_ms - usual_ms, 0.0) for _, ttft_ms in answered] if hot else []
