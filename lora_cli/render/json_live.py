"""``serve-bench --url`` as JSON: vLLM's keys over all runs, and ours with their intervals beside."""

from collections.abc import Mapping

from lora_cli.bench.live.numbers import DEFINITIONS, VLLM_MEASURES, VLLM_SUMMARIES, Run
from lora_cli.bench.live.result import LiveRun
from lora_cli.bench.live.tiers import KINDS
from lora_cli.render.bench_report import BenchReport, LiveReport, SeedReport
from lora_cli.render.json_bench import bench_report, vllm_run


def live(run: LiveRun) -> BenchReport:
    """The report of a live run."""
    metrics = run.metrics
    names = [f"{name}_{what}_ms" for what in VLLM_MEASURES for name in VLLM_SUMMARIES]
    known = vllm_run(
        run.setting,
        metrics,
        model_id=run.base or None,
        endpoint_type="openai",
        max_concurrency=run.max_concurrency,
    )
    result = LiveReport(
        slo_ms=run.slo,
        tiers_from=run.tiers_from,
        hits={kind: sum(one.kinds.count(kind) for one in run.runs) for kind in KINDS},
        late=run.is_late,
        interval_95=run.interval,
        seeds=tuple(one.seed for one in run.runs),
        runs=tuple(_seed(one, numbers) for one, numbers in zip(run.runs, run.each, strict=True)),
        per_adapter=run.adapters,
        failures=run.failures,
    )
    return bench_report(run.setting, known, {name: metrics.get(name) for name in names}, result, DEFINITIONS, metrics)


def _seed(run: Run, metrics: Mapping[str, float | None]) -> SeedReport:
    answers = run.course.answers
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
    )
