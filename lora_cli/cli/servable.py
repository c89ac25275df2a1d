"""Which adapters of a lineup can be measured: on this disk, judged and composable. The others, with the reason."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_cli.cli.lineup import Lineup
from lora_cli.errors import LoraCliError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.core.base_model import BaseModel
    from lora_cli.runtime.plan import Job, Limits
    from lora_cli.store.holds import Hold


@dataclass(slots=True)
class Failures:
    """Adapters that cannot be served: why, and the exit code that each would end the command with."""

    reasons: dict[str, str] = field(default_factory=dict)
    code: int = 0

    def add(self, name: str, reason: str, code: int) -> None:
        """One more."""
        self.reasons[name] = reason
        self.code = max(self.code, code)


def servable(
    asked: Lineup, base: "BaseModel", most: "Limits", settings: Settings, hold: "Hold", failures: Failures
) -> "Iterator[Job]":
    """The adapters that can be served, held in the cache; the others are noted in ``failures``."""
    from lora_cli.check import Terms
    from lora_cli.cli.warming import admitting
    from lora_cli.runtime.admitted import reported
    from lora_cli.runtime.composable import scalings

    admit = admitting(asked, Terms(base, max_lora_rank=most.max_lora_rank), settings, hold)
    for item in asked.items:
        report, job = reported(item, admit(item))
        if job is None:
            failures.add(item.name, report.error, report.exit_code)
            continue
        try:
            scalings(job.adapter, base)
        except LoraCliError as error:
            failures.add(item.name, error.message, error.exit_code)
        else:
            yield job
