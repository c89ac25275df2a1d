"""How the judging of one adapter went: its verdict, or the error that kept it from being judged, and the time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING

from lora_cli.core.adapter import Adapter
from lora_cli.core.finding import Finding, Severity, Verdict
from lora_cli.core.snapshot import Revision
from lora_cli.errors import LoraCliError, NotFound

if TYPE_CHECKING:
    from lora_cli.core.companions import Card
    from lora_cli.core.comparison import Comparison
    from lora_cli.core.spectrum import Spectrum


@dataclass(frozen=True, slots=True)
class Checked:
    """One adapter, judged where it lies; or ``error``, which kept it from being read at all.

    ``source`` is the canonical reference (or what was written, when it is none); ``stage_ms`` maps resolve, read,
    values and rules to milliseconds. ``digest`` is the snapshot digest, where a policy made somebody ask for it.
    ``spectrum`` and ``comparison`` (with another adapter) are there where they were asked for.
    ``card`` is the model card, where it was asked for and there is one.
    """

    name: str
    source: str
    revision: Revision | None = None
    adapter: Adapter | None = None
    verdict: Verdict | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    error: LoraCliError | None = None
    digest: str | None = None
    spectrum: "Spectrum | None" = None
    comparison: "Comparison | None" = None
    card: "Card | None" = None

    def without_contents(self) -> "Checked":
        """The verdict without what was read: of many adapters that is nearly all the memory."""
        bare = None if self.revision is None else replace(self.revision, files=())
        return replace(self, adapter=None, revision=bare, spectrum=None, comparison=None, card=None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, nothing where it was not judged."""
        return self.verdict.findings if self.verdict is not None else ()

    def exit_code(self, fail_on: Severity = Severity.ERROR) -> int:
        """What this adapter alone would end the command with."""
        if self.error is not None:
            return self.error.exit_code
        return int(self.verdict is not None and self.verdict.refused(fail_on))

    @property
    def read_code(self) -> int:
        """What it would end a command with that only reads.

        1 where config or weights are not read, 3 where values were asked for that are not on this disk.
        """
        if self.error is not None:
            return self.error.exit_code
        adapter = self.adapter
        unreadable = adapter is None or adapter.config is None or adapter.weights_error is not None
        values = (self.spectrum, self.comparison)
        if not unreadable and any(one is not None and one.unread for one in values):
            return NotFound.exit_code
        return int(unreadable or (adapter is not None and not adapter.weight_files))


class Stopwatch:
    """Milliseconds by stage, in the order in which the stages ended."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._since = perf_counter()

    def lap(self, stage: str) -> None:
        """End ``stage``: it took the time since the last lap, less what was booked inside it."""
        now = perf_counter()
        self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + (now - self._since) * 1000
        self._since = now
