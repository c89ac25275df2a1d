"""``Result``: one adapter on its way through a run. Every command fills it in, and JSON encodes it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Literal

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.beside import Card
from lora_cli.errors import LoraCliError, Refused
from lora_cli.finding import NO_BASE, NO_VALUES, Applied, EngineOutcome, Finding, Outcome, Severity, Skipped
from lora_cli.json_schema import EXCLUDED, Count, Sha256
from lora_cli.redaction import log_bug, logger, without_secrets
from lora_cli.refs.request import Request
from lora_cli.refs.snapshot import Snapshot

log = logger(__name__)


@dataclass(slots=True)
class Result:
    """One adapter, what was found about it, and what could not be checked."""

    name: str
    """As it was asked for, or as the manifest calls it."""
    source: str
    """The canonical reference."""
    revision: str | None = field(default_factory=NoneType)
    """What the reference was resolved to: a commit, or a fingerprint of the folder."""
    digest: Sha256 | None = field(default_factory=NoneType)
    """The snapshot digest, as in fetch and in the lock; null for an adapter that is neither cached nor locked."""
    exit_code: Count = 0
    """The exit code of the command for this adapter alone."""
    applied: Applied | None = field(default_factory=NoneType)
    """How many of its modules the base model has, by PEFT's naming rules."""
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    engines: tuple[EngineOutcome, ...] = ()
    """What each engine that was named does with it."""
    error: LoraCliError | None = field(default_factory=NoneType)
    """What prevented the adapter from being read, or null."""
    stage_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds by stage."""
    outcome: Literal["ok", "accepted", "unchecked", "refused", "failed"] | None = None
    """Unchecked: nothing refuses it, but something that matters could not be looked at. Missing if it is not judged."""
    base: str | None = field(default_factory=NoneType)
    """The base model that it was compared with, or null."""
    unchecked: tuple[str, ...] = ()
    """Why base or values could not be looked at."""
    signers: tuple[str, ...] | None = None
    """Who signed it, verified now; missing if no policy requires that."""
    request: Request | None = field(default=None, metadata=EXCLUDED)
    """What was asked for, with its reference."""
    adapter: Adapter | None = field(default=None, metadata=EXCLUDED)
    card: Card | None = field(default=None, metadata=EXCLUDED)
    """The model card, if it was asked for."""
    snapshot: Snapshot | None = field(default=None, metadata=EXCLUDED)
    """The cached snapshot that it was read from, if it was."""
    directory: Path | None = field(default=None, metadata=EXCLUDED)
    """The folder on this disk that has its files."""
    stage: str = field(default="", metadata=EXCLUDED)
    """The stage of an admission in which it failed."""
    bytes: int = field(default=0, metadata=EXCLUDED)
    """Those of its files, as far as their sizes are known."""
    cached: bool = field(default=False, metadata=EXCLUDED)
    """Whether all that was fetched was in the cache before."""

    @classmethod
    def of(cls, request: Request) -> "Result":
        """The result of a request before anything is looked at; one without a name gets its source as its name."""
        text = without_secrets(str(request.source))
        return cls(request.name or text, text, request=request)

    @property
    def is_incomplete(self) -> bool:
        """Whether anything could not be checked: what ``--strict`` refuses."""
        skipped = any(one.reason not in {NO_BASE, NO_VALUES} for one in self.skipped)
        return bool(skipped or self.unchecked or any(one.outcome is Outcome.UNKNOWN for one in self.engines))

    def refused(self, fail_on: Severity = Severity.ERROR) -> bool:
        """Whether any finding that counts is at or above ``fail_on``."""
        return any(finding.severity >= fail_on for finding in self.findings if finding.accepted is None)

    @property
    def ok(self) -> bool:
        """Whether it was read, nothing refuses it, and all that matters was looked at."""
        return self.error is None and not self.refused() and not self.is_incomplete

    def __repr__(self) -> str:
        return f"Result({self.name!r}, ok={self.ok}, findings={[one.code for one in self.findings]})"

    @property
    def worst_first(self) -> list[Finding]:
        """The findings, the worst first."""
        return sorted(self.findings, key=lambda finding: -finding.severity)

    @property
    def refusal(self) -> LoraCliError | None:
        """Why it is not loaded or published (None if it is): its error, or the first finding that counts as one."""
        errors = [one for one in self.findings if one.severity is Severity.ERROR and one.accepted is None]
        if self.error is not None or not errors:
            return self.error
        first, problem = errors[0], errors[0].problem
        where = f"{problem.at}: " if str(problem.at) else ""
        more = f" (and {len(errors) - 1} more: see lora-cli validate)" if len(errors) > 1 else ""
        return Refused(f"{first.code} {first.name}: {where}{problem.message}{more}", hint=problem.hint)


class Stopwatch:
    """Fills in ``stage_ms``: milliseconds by stage, in the order in which the stages ended."""

    def __init__(self, stage_ms: dict[str, float]) -> None:
        self._stage_ms, self._since = stage_ms, time.perf_counter()

    def lap(self, stage: str) -> None:
        """End ``stage``: its time is the time since the last lap."""
        now = time.perf_counter()
        self._stage_ms[stage] = self._stage_ms.get(stage, 0.0) + (now - self._since) * 1000
        self._since = now


@contextmanager
def failing_alone(result: Result) -> Iterator[None]:
    """The boundary of one adapter: an error or a bug in here is its ``error``, and stops no other adapter.

    Raises:
        MemoryError, OSError: as they are: they are no adapter's.
    """
    try:
        yield
    except LoraCliError as error:
        result.error = error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - a bug fails one adapter alone
        log_bug(log, error)
        hint = "this is a bug in lora-cli; please report it"
        result.error = LoraCliError(f"{type(error).__name__}: {error}", hint=hint)
