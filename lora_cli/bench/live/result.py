"""The report of a live run: its numbers over all seeds, each with its interval, and by adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, sqrt
from statistics import fmean, stdev

from lora_cli.bench.live.numbers import (
    COUNTS,
    DEFINITIONS,
    INFERRED,
    KINDS,
    LATE_MS,
    SERVER,
    VLLM_MEASURES,
    Run,
    Slo,
    by_adapter,
    numbers,
)
from lora_cli.bench.quantiles import VLLM_SUMMARIES
from lora_cli.bench.report import BenchReport, BenchSetting, LiveReport, SeedReport, VllmRun, bench_report

Z = 1.959963984540054
"""The normal distribution's quantile at 0.975."""

T = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)
"""Student's t at 0.975 for 1 to 10 degrees of freedom."""

RATES = {
    "request_throughput": ("completed",),
    "output_throughput": ("total_output_tokens",),
    "total_token_throughput": ("total_input_tokens", "total_output_tokens"),
}
MOST = ("max_output_tokens_per_s", "max_concurrent_requests")

Numbers = Mapping[str, float | None]


def t_quantile(freedom: int) -> float:
    """Student's t at 0.975: 95 % of it lie between this and its negative.

    Beyond 10 degrees of freedom by the expansion of Abramowitz and Stegun, 26.7.5, to four digits.
    """
    if freedom <= len(T):
        return T[freedom - 1]
    return (
        Z
        + (Z**3 + Z) / (4 * freedom)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * freedom**3)
    )


def together(runs: Sequence[Numbers]) -> dict[str, float | None]:
    """Every metric over all runs: counts and seconds added up, rates by these, and means of all else."""
    found = {name: _one(name, [run[name] for run in runs]) for name in runs[0]} if runs else {}
    for name, counts in RATES.items():
        if duration := found.get("duration"):
            found[name] = sum(found[count] or 0 for count in counts) / duration
    return found


def intervals(runs: Sequence[Numbers]) -> dict[str, float]:
    """Half the width of the 95 % interval of each metric that at least two runs know, and none as infinite."""
    found = {}
    for name in runs[0] if runs else ():
        values = [value for value in (run[name] for run in runs) if value is not None]
        if name not in COUNTS and len(values) > 1 and all(map(isfinite, values)):
            found[name] = t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return found


def _one(name: str, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if name in COUNTS:
        return sum(known)
    return max(known) if name in MOST else fmean(known)


def live_report(
    run: VllmRun,
    setting: BenchSetting,
    base: str,
    slo: Slo,
    runs: Sequence[Run],
    refused: Mapping[str, str] | None = None,
) -> BenchReport:
    """The report of these runs; ``refused`` are adapters that cannot be served and were not asked for, and why."""
    each = [numbers(one, slo) for one in runs]
    metrics = together(each)
    late_ms = metrics.get("lateness_p99_ms")
    failures = {name: f"cannot be served: {why}" for name, why in (refused or {}).items()}
    failures |= {name: f"{count} of its requests failed: {why}" for name, (count, why) in errors(runs, base).items()}
    result = LiveReport(
        slo_ms=slo,
        tiers_from=SERVER if any(one.tiers_from == SERVER for one in runs) else INFERRED,
        hits={kind: sum(one.kinds.count(kind) for one in runs) for kind in KINDS},
        late=late_ms is not None and late_ms > LATE_MS and any(one.timed for one in runs),
        interval_95=intervals(each),
        seeds=tuple(one.seed for one in runs),
        runs=tuple(map(_seed, runs, each)),
        per_adapter=by_adapter(runs, slo),
        failures=failures,
    )
    names = [f"{name}_{what}_ms" for what in VLLM_MEASURES for name in VLLM_SUMMARIES]
    summaries = {name: metrics.get(name) for name in names}
    sent = sum(len(one.course.answers) for one in runs)
    run = replace(run, num_prompts=sent, model_id=base or None, endpoint_type="openai")
    return bench_report(run, setting, result, DEFINITIONS, metrics, summaries)


def errors(runs: Sequence[Run], base: str) -> dict[str, tuple[int, str]]:
    """How many requests of each model failed, and what the server said to the first of them."""
    found: dict[str, tuple[int, str]] = {}
    for run in runs:
        asked = [(one.name, one) for one in (*run.course.answers, *run.course.probes)]
        for name, one in [*asked, *((base, one) for one in run.control or ())]:
            if one.error:
                count, first = found.get(name, (0, one.error))
                found[name] = count + 1, first
    return found


def _seed(run: Run, metrics: Mapping[str, float | None]) -> SeedReport:
    answers, control = run.course.answers, run.control
    return SeedReport(
        seed=run.seed,
        tiers_from=run.tiers_from,
        metrics=metrics,
        adapters=tuple(one.name for one in answers),
        tiers=tuple(run.kinds),
        load_ms=tuple(one.load_ms for one in answers),
        scheduled_times=tuple(one.scheduled_s for one in answers),
        start_times=tuple(one.sent_s for one in answers),
        ttfts=tuple(None if one.error else one.first_s - one.sent_s for one in answers),
        itls=tuple(tuple(round(gap, 6) for gap in one.itl_s) for one in answers),
        latencies=tuple(None if one.error else one.last_s - one.sent_s for one in answers),
        input_lens=tuple(one.prompt_tokens for one in answers),
        output_lens=tuple(one.output_tokens for one in answers),
        errors=tuple(one.error for one in answers),
        probes=tuple((one.sent_s, None if one.error else one.ttft_s * 1e3) for one in run.course.probes),
        control_ttft_ms=None if control is None else tuple(None if one.error else one.ttft_s * 1e3 for one in control),
    )
