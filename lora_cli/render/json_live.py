"""What ``serve-bench --url`` found, for machines: vLLM's keys over all runs, and ours with their intervals beside."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_cli.bench.live.answer import Answer
from lora_cli.bench.live.numbers import DEFINITIONS, VLLM_MEASURES, VLLM_SUMMARIES, Run
from lora_cli.bench.live.result import LiveRun
from lora_cli.bench.live.tiers import KINDS
from lora_cli.render.json_bench import setting
from lora_cli.render.json_vllm import OF_A_RUN, with_all_keys


def live(run: LiveRun) -> dict[str, Any]:
    """The document of a live run."""
    metrics = run.metrics
    known = {key: metrics[key] for key in OF_A_RUN if key in metrics}
    known |= {
        key: metrics.get(key) for what in VLLM_MEASURES for key in (f"{name}_{what}_ms" for name in VLLM_SUMMARIES)
    }
    whole = ("completed", "failed", "total_input_tokens", "total_output_tokens", "max_concurrent_requests")
    known |= {key: int(known[key] or 0) for key in whole}
    more = {
        "model_id": run.base or None,
        "endpoint_type": "openai",
        "max_concurrency": run.max_concurrency,
        "slo_ms": dict(run.slo),
        "tiers_from": run.tiers_from,
        "hits": {kind: sum(one.kinds.count(kind) for one in run.runs) for kind in KINDS},
        "late": run.is_late,
        "interval_95": dict(run.interval),
        "seeds": [one.seed for one in run.runs],
        "runs": [
            {"seed": one.seed, "tiers_from": one.tiers_from, "metrics": dict(numbers), **_requests(one)}
            for one, numbers in zip(run.runs, run.each, strict=True)
        ],
        "per_adapter": {name: dict(numbers) for name, numbers in run.adapters.items()},
        "failures": run.failures,
        "definitions": dict(DEFINITIONS),
    }
    return with_all_keys(setting(run.setting) | known | more)


def _requests(run: Run) -> Mapping[str, Sequence[Any]]:
    """Every request, in columns as vLLM's ``--save-detailed`` has them, and whom it asked for."""
    answers = run.course.answers
    return {
        "adapters": [one.name for one in answers],
        "tiers": list(run.kinds),
        "load_ms": [one.load_ms for one in answers],
        "scheduled_times": [one.scheduled_s for one in answers],
        "start_times": [one.sent_s for one in answers],
        "ttfts": [None if one.error else one.first_s - one.sent_s for one in answers],
        "itls": [[round(gap, 6) for gap in one.itl_s] for one in answers],
        "latencies": [None if one.error else one.last_s - one.sent_s for one in answers],
        "input_lens": [one.prompt_tokens for one in answers],
        "output_lens": [one.output_tokens for one in answers],
        "errors": [one.error for one in answers],
        "probes": [_probe(one) for one in run.course.probes],
    }


def _probe(one: Answer) -> list[float | None]:
    return [one.sent_s, None if one.error else one.ttft_s * 1e3]
