"""The report of a live run: its numbers over all seeds, each with its interval, and by adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lora_cli.bench.live.goodput import Slo
from lora_cli.bench.live.numbers import DEFINITIONS, LATE_MS, VLLM_MEASURES, Run, by_adapter, numbers
from lora_cli.bench.live.seeds import intervals, together
from lora_cli.bench.live.tiers import INFERRED, KINDS, SERVER
from lora_cli.bench.quantiles import VLLM_SUMMARIES
from lora_cli.bench.report import BenchReport, BenchSetting, LiveReport, SeedReport, VllmRun, bench_report


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
