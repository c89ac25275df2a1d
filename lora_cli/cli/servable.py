"""Which adapters are measured, and which of them can be: on this disk, judged, composable. The others, and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_cli.cli.bench_options import FleetFlags, LineupFlags
from lora_cli.cli.bench_workload import Workload, adapter_names
from lora_cli.cli.lineup import Lineup, lineup, reaching
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.core.base_model import BaseModel
    from lora_cli.runtime.plan import Job, Limits
    from lora_cli.store.holds import Hold


@dataclass(slots=True)
class Failures:
    """Adapters that cannot be served: why, what can be done, and the exit code that each would end the command with."""

    reasons: dict[str, str] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    code: int = 0

    def add(self, name: str, reason: str, hint: str, code: int) -> None:
        """One more."""
        self.reasons[name], self.hints[name] = reason, hint
        self.code = max(self.code, code)


def servable(
    asked: Lineup, base: "BaseModel", most: "Limits", settings: Settings, hold: "Hold", failures: Failures
) -> "Iterator[Job]":
    """The adapters that can be served, held in the cache; the others are noted in ``failures``."""
    from lora_cli.cli.warming import admitting
    from lora_cli.runtime.admitted import reported
    from lora_cli.runtime.composable import scalings
    from lora_cli.validation import Terms

    admit = admitting(asked, Terms(base, max_lora_rank=most.max_lora_rank), settings, hold)
    for item in asked.items:
        report, job = reported(item, admit(item))
        if job is None:
            failures.add(item.name, report.error, report.hint, report.exit_code)
            continue
        try:
            scalings(job.adapter, base)
        except LoraCliError as error:
            failures.add(item.name, error.message, error.hint, error.exit_code)
        else:
            yield job


@contextmanager
def measured_lineup(
    settings: Settings, named: LineupFlags, workload: Workload, fleet: FleetFlags
) -> Iterator[tuple[Lineup, Settings]]:
    """The adapters that are named, or those that nobody trained, and the settings that hold for them.

    Raises:
        LoraCliError: they are not named as they must be, or there is no room for those that are made.
    """
    if fleet.num_adapters is None:
        if fleet.ranks is not None:
            raise UsageError("--ranks is for --num-adapters and --simulate", hint="adapters that are named have ranks")
        asked = lineup(named.manifest, named.refs or [], named.base, "serve-bench", "measure")
        yield asked, reaching(settings, asked.manifest, named.policy)
        return
    from lora_cli.cli.synthetic_lineup import synthetic_lineup

    names = adapter_names(workload.names, fleet.num_adapters)
    with synthetic_lineup(named, names, fleet.ranks, workload.flags.seed, settings) as made:
        yield made
