"""What ``serve-bench`` found, for machines: vLLM's keys where it has one for it, and ours beside them.

Its JSON Schema is ``manifests/schemas/serve-bench.schema.json``.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from lora_cli.bench.fleet import Fleet
from lora_cli.bench.links import Link
from lora_cli.bench.outcome import SHARES, Outcome
from lora_cli.bench.setting import Setting
from lora_cli.bench.simulated import DEFINITIONS, SimulatedRun
from lora_cli.render.json import document
from lora_cli.tiers.budget import Budget

BACKENDS = {"simulate": "lora-cli simulation", "in-process": "lora-cli warm process"}


def render_simulation(run: SimulatedRun) -> str:
    """The document of ``serve-bench --simulate``."""
    return document("serve-bench", simulation(run))


def simulation(run: SimulatedRun) -> dict[str, Any]:
    """The same as a value."""
    found = run.found
    policies = {
        name: _policy(one, found.gap_closed(name), found.cost_gap_closed(name)) for name, one in found.outcomes.items()
    }
    return setting(run.setting) | {
        "objective": run.objective,
        "tiers": tiers(run.fleet),
        "policies": policies,
        "bounds": {"miss_cost_ms": found.least_cost_ms},
        "stall_cdf_shares": list(SHARES),
        "definitions": dict(DEFINITIONS),
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


def tiers(fleet: Fleet) -> dict[str, Any]:
    """What each tier holds and how it is filled."""
    return {
        "adapter_bytes": sum(fleet.sizes.values()),
        "largest_adapter_bytes": max(fleet.sizes.values(), default=0),
        "gpu": _tier(fleet.gpu, fleet.links.gpu),
        "cpu": _tier(fleet.cpu, fleet.links.disk),
    }


def _tier(budget: Budget, link: Link) -> dict[str, Any]:
    return {
        "places": budget.items,
        "max_bytes": budget.max_bytes,
        "load": {
            "ms": link.ms,
            "gb_per_s": link.gb_per_s if isfinite(link.gb_per_s) else None,
            "origin": link.origin,
        },
    }


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
