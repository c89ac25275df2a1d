"""What ``serve-bench`` prints: latency by the tier that a request hit, and what the tiers did."""

from collections.abc import Sequence

from lora_cli.core.results import BenchResult
from lora_cli.render.text import columns, counted, milliseconds, paint, pairs, wrap

NAMES = {"gpu": "hot (gpu)", "cpu": "warm (cpu)", "disk": "cold (disk)", "remote": "cold (remote)"}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank, no interpolation)."""
    ordered = sorted(values)
    rank = -(-share * len(ordered) // 1)
    return ordered[max(int(rank) - 1, 0)]


def render_bench(result: BenchResult, width: int, *, colour: bool = False) -> str:
    """A table of milliseconds by tier, then hits, evictions, and what the run was."""
    rows = [
        (
            NAMES.get(tier, tier),
            len(values),
            *(milliseconds(percentile(values, share)) for share in (0.5, 0.95, 0.99, 1.0)),
        )
        for tier, values in result.latency_ms.items()
        if values
    ]
    header, *table = columns(("ms by tier", "requests", "p50", "p95", "p99", "max"), rows)
    lines = [paint(header, "bold", colour=colour), *table, ""]
    lines += pairs(_facts(result), width, indent="")
    for name, reason in result.failed.items():
        lines += ["", *wrap(f"{name}: {reason}", width, "  ", "")]
    return "\n".join(lines) + "\n"


def _facts(result: BenchResult) -> list[tuple[str, object]]:
    hits = sum(result.hits.values())
    shares = [f"{tier} {number} ({number / (hits or 1):.0%})" for tier, number in result.hits.items()]
    work = f"{counted(result.requests, 'request')} over {counted(result.adapters, 'adapter')}"
    return [
        ("hits", ", ".join(shares) or "0"),
        ("evictions", ", ".join(f"{tier} {number}" for tier, number in result.evictions.items()) or "0"),
        ("workload", f"{work}, seed {result.seed}"),
        ("tiers", f"max_loras {result.max_loras}, max_cpu_loras {result.max_cpu_loras}"),
        ("on", ", ".join(f"{key} {value}" for key, value in result.environment.items())),
    ]
