"""What ``serve-bench`` found, for machines: vLLM's keys where it has one for it, and ours beside them.

Its JSON Schema is ``manifests/schemas/serve-bench.schema.json``.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from lora_cli.bench.fleet import Fleet
from lora_cli.bench.links import Link
from lora_cli.bench.measured import DEFINITIONS as MEASURED_DEFINITIONS
from lora_cli.bench.measured import MeasuredRun, measured_metrics
from lora_cli.bench.outcome import SHARES, Outcome
from lora_cli.bench.plan import DEFINITIONS as PLAN_DEFINITIONS
from lora_cli.bench.plan import PlannedRun
from lora_cli.bench.regression import Change, Judged
from lora_cli.bench.setting import Setting
from lora_cli.bench.simulated import DEFINITIONS, SimulatedRun
from lora_cli.bench.sizing import Answer
from lora_cli.render.json_vllm import KEYS, with_all_keys
from lora_cli.tiers.budget import Budget

_NAMES = """
schema version mode span_s adapters seed workload environment metrics definitions trace fail_if baseline
objective tiers policies bounds stall_cdf_shares loads plan
requests max_loras max_cpu_loras hits evictions latency_ms failures
slo_ms tiers_from late interval_95 seeds runs per_adapter traces
"""
OURS = frozenset(_NAMES.split()).union(KEYS)
"""Every key at the top of a result, of whatever mode: what ``--metadata`` adds is none of them."""

BACKENDS = {"simulate": "lora-cli simulation", "in-process": "lora-cli warm process", "live": "openai"}


def simulation(run: SimulatedRun) -> dict[str, Any]:
    """The document of ``serve-bench --simulate``."""
    found = run.found
    policies = {
        name: _policy(one, found.gap_closed(name), found.cost_gap_closed(name)) for name, one in found.outcomes.items()
    }
    more = {
        "objective": run.objective,
        "tiers": tiers(run.fleet),
        "policies": policies,
        "bounds": {"miss_cost_ms": found.least_cost_ms},
        "stall_cdf_shares": list(SHARES),
        "definitions": dict(DEFINITIONS),
    }
    return with_all_keys(setting(run.setting) | more)


def measured(run: MeasuredRun) -> dict[str, Any]:
    """The document of a run in process. An adapter answers a small batch at once: its first token is its last."""
    result, numbers = run.result, measured_metrics(run.result)
    summaries = {name: value for name, value in numbers.items() if name.endswith("_ttft_ms")}
    return with_all_keys(
        setting(run.setting)
        | {key: numbers[key] for key in ("duration", "completed", "failed", "request_throughput")}
        | summaries
        | {name.replace("_ttft_", "_e2el_"): value for name, value in summaries.items()}
        | {
            "max_concurrency": 1,
            "model_id": result.environment.get("base"),
            "requests": result.requests,
            "max_loras": result.max_loras,
            "max_cpu_loras": result.max_cpu_loras,
            "hits": dict(result.hits),
            "evictions": dict(result.evictions),
            "latency_ms": {tier: list(values) for tier, values in result.latency_ms.items()},
            "failures": dict(result.failed),
            "definitions": dict(MEASURED_DEFINITIONS),
        }
    )


def plan(run: PlannedRun) -> dict[str, Any]:
    """The document of ``serve-bench --simulate --plan``."""
    policies = {
        name: {
            "answers": [_answer(run, answer) for answer in one.answers],
            "with_all": _answer(run, one.most),
        }
        for name, one in run.found.items()
    }
    loads = {"adapter_bytes": sum(run.fleet.sizes.values()), "largest_adapter_bytes": max(run.fleet.sizes.values())}
    links = {"gpu": _load(run.fleet.links.gpu), "cpu": _load(run.fleet.links.disk)}
    more = {
        "objective": run.objective,
        "loads": loads | links,
        "plan": {"goals": [str(goal) for goal in run.goals], "policies": policies},
        "definitions": dict(PLAN_DEFINITIONS),
    }
    return with_all_keys(setting(run.setting) | more)


def _answer(run: PlannedRun, answer: Answer) -> dict[str, Any]:
    return {
        "slots": answer.slots,
        "places": answer.places,
        "gpu_bytes": run.gpu_bytes(answer),
        "cpu_bytes": run.cpu_bytes(answer),
        **answer.metrics,
    }


def setting(one: Setting) -> dict[str, Any]:
    """What was run, in vLLM's words where it has one."""
    return {
        "mode": one.mode,
        "backend": BACKENDS.get(one.mode, one.mode),
        "num_prompts": one.num_prompts,
        "request_rate": one.request_rate if isfinite(one.request_rate) else "inf",
        "burstiness": one.burstiness if isfinite(one.burstiness) else "inf",
        "total_input_tokens": one.input_tokens,
        "total_output_tokens": one.output_tokens,
        "span_s": one.span_s,
        "adapters": one.adapters,
        "seed": one.seed,
        "workload": dict(one.workload),
        "environment": dict(one.environment),
    }


def comparison(found: Sequence[Change]) -> list[dict[str, Any]]:
    """What changed since an older result."""
    return [
        {"metric": one.metric, "before": one.before, "now": one.now, "change": one.by, "verdict": one.verdict}
        for one in found
    ]


def judgement(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """What the run is failed for, or not."""
    return [{"condition": str(one.condition), "value": one.value, "failed": one.failed} for one in found]


def tiers(fleet: Fleet) -> dict[str, Any]:
    """What each tier holds and how it is filled."""
    return {
        "adapter_bytes": sum(fleet.sizes.values()),
        "largest_adapter_bytes": max(fleet.sizes.values(), default=0),
        "gpu": _tier(fleet.gpu, fleet.links.gpu),
        "cpu": _tier(fleet.cpu, fleet.links.disk),
    }


def _tier(budget: Budget, link: Link) -> dict[str, Any]:
    return {"places": budget.items, "max_bytes": budget.max_bytes, "load": _load(link)}


def _load(link: Link) -> dict[str, Any]:
    rate = link.gb_per_s if isfinite(link.gb_per_s) else None
    return {"ms": link.ms, "gb_per_s": rate, "origin": link.origin}


def _policy(one: Outcome, gap: float | None, cost_gap: float | None) -> Mapping[str, Any]:
    return {
        "kind": one.kind,
        "requests": one.requests,
        "hits": one.hits["gpu"],
        "hit_ratio": one.hit_ratio,
        "hits_by_tier": dict(one.hits),
        "evictions": dict(one.evictions),
        "miss_cost_ms": one.miss_cost_ms,
        "miss_cost_ms_per_request": one.miss_cost_ms / (one.requests or 1),
        "stalled": one.stalled,
        "stall_ms": dict(one.stall_ms),
        "gap_closed": gap,
        "cost_gap_closed": cost_gap,
        "hit_ratio_over_time": list(one.hit_ratio_over_time),
        "stall_cdf_ms": list(one.stall_cdf_ms),
    }
