"""What ``serve-bench`` prints: latency by the tier that a request hit, and what the tiers did."""

from collections.abc import Sequence

from lora_cli.bench.measured import by_kind
from lora_cli.bench.outcome import SHARES
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.core.results import BenchResult
from lora_cli.core.text import counted, milliseconds
from lora_cli.render.human.plots import distribution
from lora_cli.render.text import columns, paint, pairs, wrap

NAMES = {"gpu": "hot (gpu)", "cpu": "warm (cpu)", "disk": "cold (disk)", "remote": "cold (remote)"}
TERMS = {
    "hot, warm, cold": "the request's adapter was in a slot, in memory, on disk",
    "ms": "from asked to answered whole: its loads, and a small batch through the adapter's modules",
}
"""What the table's words mean; the JSON defines all of its numbers."""

HEADER = ("ms by tier", "requests", "p50", "p95", "p99", "max")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank, no interpolation)."""
    return nearest_rank(sorted(values), share)


def render_bench(result: BenchResult, width: int, *, colour: bool = False) -> str:
    """A table of milliseconds by tier, their curves, then hits, evictions, the run, and what the words mean."""
    header, *table = columns(HEADER, tier_rows(result))
    lines = [paint(header, "bold", colour=colour), *table, ""]
    kinds = {kind: values for kind, values in by_kind(result).items() if values}
    curves = {kind: [nearest_rank(values, share) for share in SHARES] for kind, values in kinds.items()}
    if plot := distribution(curves, SHARES, width):
        lines += [paint("% of requests that are answered within", "bold", colour=colour), *plot, ""]
    lines += pairs(bench_facts(result), width, indent="")
    for name, reason in result.failed.items():
        lines += ["", *wrap(f"{name}: {reason}", width, "  ", "")]
    lines += ["", *pairs(TERMS.items(), width, indent="")]
    return "\n".join(lines) + "\n"


def tier_rows(result: BenchResult) -> list[tuple[object, ...]]:
    """The cells of each tier that was hit, in the order of the header."""
    return [
        (
            NAMES.get(tier, tier),
            len(values),
            *(milliseconds(percentile(values, share)) for share in (0.5, 0.95, 0.99, 1.0)),
        )
        for tier, values in result.latency_ms.items()
        if values
    ]


def bench_facts(result: BenchResult) -> list[tuple[str, object]]:
    """What was measured, as labelled values."""
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
