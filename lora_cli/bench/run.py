"""A trace, served one request after the other, and what it cost by the tier that each request found."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli import __version__
from lora_cli.bench.report import MeasurementReport
from lora_cli.errors import LoraCliError

TIERS = ("gpu", "cpu", "disk")


@dataclass(frozen=True, slots=True)
class Served:
    """One request: the tier where its adapter was found, milliseconds from asked to answered, evictions by tier."""

    tier: str
    ms: float
    evicted: Mapping[str, int] = field(default_factory=dict)


def run_trace(
    trace: Sequence[str],
    serve: Callable[[str], Served],
    max_loras: int,
    max_cpu_loras: int,
    *,
    failed: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> MeasurementReport:
    """Each request of ``trace`` through ``serve``, one at a time: a request waits for the one before.

    An adapter whose request raises ``LoraCliError`` is reported, and is not asked again; the run goes on.
    ``failed`` are adapters known to be broken before (name → why): their requests are not sent either.
    ``progress`` is told how many requests are done. An interrupt ends the run; what was done until then is its result.
    """
    broken = dict(failed or {})
    latency_ms: dict[str, list[float]] = {tier: [] for tier in TIERS}
    evictions: Counter[str] = Counter(dict.fromkeys(TIERS[:2], 0))
    done = 0
    try:
        for adapter in trace:
            if adapter not in broken:
                try:
                    served = serve(adapter)
                except LoraCliError as error:
                    broken[adapter] = error.message
                else:
                    latency_ms.setdefault(served.tier, []).append(served.ms)
                    evictions.update(served.evicted)
            done += 1
            progress(done)
    except KeyboardInterrupt:
        pass
    return MeasurementReport(
        requests=done,
        max_loras=max_loras,
        max_cpu_loras=max_cpu_loras,
        hits={tier: len(values) for tier, values in latency_ms.items()},
        evictions=dict(evictions),
        latency_ms={tier: tuple(values) for tier, values in latency_ms.items()},
        failures=broken,
    )


def environment(**more: str) -> dict[str, str]:
    """Where a run was made: versions, processor, cores; ``more`` is added (device, popularity, …)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "lora_cli": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(cores),
        **more,
    }
