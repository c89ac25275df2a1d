"""A live run as it is told: its numbers over all seeds, each with its interval, and by adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lora_cli.bench.live.goodput import Slo
from lora_cli.bench.live.numbers import LATE_MS, Run, by_adapter, numbers
from lora_cli.bench.live.seeds import intervals, together
from lora_cli.bench.live.tiers import INFERRED, SERVER, TiersFrom
from lora_cli.bench.setting import Setting


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What was asked of which server, and what came of it.

    ``refused`` are adapters that nobody asked for because they cannot be served, and why.
    ``each`` are the numbers of each run, ``metrics`` those of all and ``interval`` half the width of their 95 %
    intervals.
    """

    setting: Setting
    url: str
    base: str
    max_concurrency: int | None
    slo: Slo
    runs: Sequence[Run]
    each: Sequence[Mapping[str, float | None]]
    metrics: Mapping[str, float | None]
    interval: Mapping[str, float]
    adapters: Mapping[str, Mapping[str, float | None]]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def tiers_from(self) -> TiersFrom:
        """``server`` where it says them, else ``inferred``."""
        return SERVER if any(run.tiers_from == SERVER for run in self.runs) else INFERRED

    @property
    def is_late(self) -> bool:
        """Whether the generator could not keep to its own times."""
        late = self.metrics.get("lateness_p99_ms")
        return late is not None and late > LATE_MS and any(run.timed for run in self.runs)

    @property
    def errors(self) -> dict[str, tuple[int, str]]:
        """How many requests of each model failed, and what the server said to the first of them."""
        found: dict[str, tuple[int, str]] = {}
        for run in self.runs:
            asked = [(one.name, one) for one in (*run.course.answers, *run.course.probes)]
            for name, one in [*asked, *((self.base, one) for one in run.control or ())]:
                if one.error:
                    count, first = found.get(name, (0, one.error))
                    found[name] = count + 1, first
        return found

    @property
    def failures(self) -> dict[str, str]:
        """What failed of each model: all of it, or some requests."""
        some = {name: f"{count} of its requests failed: {why}" for name, (count, why) in self.errors.items()}
        return {name: f"cannot be served: {why}" for name, why in self.refused.items()} | some


def live_run(
    setting: Setting,
    url: str,
    base: str,
    max_concurrency: int | None,
    slo: Slo,
    runs: Sequence[Run],
    refused: Mapping[str, str] | None = None,
) -> LiveRun:
    """The result of these runs."""
    each = [numbers(run, slo) for run in runs]
    return LiveRun(
        setting,
        url,
        base,
        max_concurrency,
        slo,
        runs,
        each,
        together(each),
        intervals(each),
        by_adapter(runs, slo),
        refused or {},
    )
