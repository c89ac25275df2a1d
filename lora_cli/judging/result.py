"""One adapter on its way through a run, ``Result``, and all of them, ``Report``: JSON is the fields of both."""

import hashlib
import posixpath
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import unquote

from lora_cli.adapter.adapter import Adapter
from lora_cli.base.base_model import BaseModel
from lora_cli.errors import LoraCliError, Refused, bug_of
from lora_cli.finding import WAIVED, Accepted, Applied, EngineOutcome, Finding, Outcome, Severity, Skipped
from lora_cli.json_schema import EXCLUDED, Count, Keyword, Sha256, Version
from lora_cli.redaction import logger, without_secrets
from lora_cli.refs.request import Request
from lora_cli.refs.snapshot import Snapshot
from lora_cli.version import __version__

if TYPE_CHECKING:
    from lora_cli.documents.baseline import AcceptedFinding

LOCAL = "file://"

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
    """The worst first."""
    skipped: tuple[Skipped, ...] = ()
    engines: tuple[EngineOutcome, ...] = ()
    """What each engine that was named does with it."""
    error: LoraCliError | None = field(default_factory=NoneType)
    """What prevented the adapter from being read, or null."""
    stage_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds by stage, in the order in which they ended."""
    outcome: Literal["ok", "accepted", "unchecked", "refused", "failed"] | None = None
    """Unchecked: nothing refuses it, but something that matters could not be looked at. Missing if it is not judged."""
    base: str | None = field(default_factory=NoneType)
    """The base model that it was compared with, or null."""
    unchecked: tuple[str, ...] = ()
    """Why base or values could not be looked at."""
    strict_code: int = field(default=1, metadata=EXCLUDED)
    """The exit code of ``--strict`` where it is unchecked: 4 if its base could not be reached."""
    signers: tuple[str, ...] | None = None
    """Who signed it, verified now; missing if no policy requires that."""
    request: Request | None = field(default=None, metadata=EXCLUDED)
    """What was asked for, with its reference."""
    adapter: Adapter | None = field(default=None, metadata=EXCLUDED)
    snapshot: Snapshot | None = field(default=None, metadata=EXCLUDED)
    """The cached snapshot that it was read from, if it was."""
    directory: Path | None = field(default=None, metadata=EXCLUDED)
    """The folder on this disk that has its files."""
    stage: str = field(default="", metadata=EXCLUDED)
    """The last one, in which it failed; empty once it has passed."""
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
    def incomplete(self) -> tuple[str, ...]:
        """Why anything could not be checked, each reason once: what ``--strict`` refuses."""
        skipped = (one.reason for one in self.skipped if one.reason not in WAIVED)
        unknown = (f"{one}: {one.note}" for one in self.engines if one.outcome is Outcome.UNKNOWN)
        return tuple(dict.fromkeys([*self.unchecked, *skipped])) or tuple(unknown)

    def refused(self, fail_on: Severity = Severity.ERROR) -> bool:
        """Whether any finding that counts is at or above ``fail_on``."""
        return any(finding.severity >= fail_on for finding in self.findings if finding.accepted is None)

    @property
    def ok(self) -> bool:
        """Whether it was read, nothing refuses it, and all that matters was looked at."""
        return self.error is None and not self.refused() and not self.incomplete

    def __repr__(self) -> str:
        return f"Result({self.name!r}, ok={self.ok}, findings={[one.code for one in self.findings]})"

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


@contextmanager
def stage(result: Result, name: str) -> Iterator[None]:
    """A stage of one adapter, and its time. An error or a bug in here is the result's, and stops no other adapter.

    Raises:
        MemoryError, OSError: as they are: they are no adapter's.
    """
    result.stage, began_s = name, time.perf_counter()
    try:
        yield
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - a bug fails one adapter alone
        result.error = error if isinstance(error, LoraCliError) else bug_of(log, error)
    result.stage_ms[name] = (time.perf_counter() - began_s) * 1000


@dataclass(frozen=True, slots=True)
class Naming:
    """Names of adapters that are the same on every machine.

    ``directory`` is the folder that names are relative to; ``root`` is the one for places, the root of a repository
    (None: ``directory``). ``manifest`` maps the names in a manifest to their lines (``set.yaml:12``).
    """

    directory: Path = Path()
    manifest: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None

    def identity(self, one: Result) -> str:
        """The adapter's name on every machine, independent of its content.

        Its name in the manifest, else its path from ``directory``, else its reference without the revision.
        """
        if one.name in self.manifest:
            return one.name
        return inside(one.source, self.directory) or unpinned(one.source)

    def fingerprint(self, one: Result, finding: Finding) -> str:
        """32 hexadecimal digits that identify rule, location and what engines do, not their version or the message."""
        at, effects = finding.problem.at, sorted(finding.effects.items())
        engines = (f"{engine.partition('@')[0]}: {outcome}" for engine, outcome in effects)
        parts = (self.identity(one), finding.code, at.file, at.field, *engines)
        return hashlib.sha256("\0".join(parts).encode(errors="backslashreplace")).hexdigest()[:32]


@dataclass(slots=True, kw_only=True)
class Report:
    """What validate found. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/validate/1"] = "lora_cli/validate/1"
    version: Version = __version__
    base: BaseModel | None
    """The base model that the adapters were validated against, or null."""
    fail_on: Annotated[Severity, Keyword("enum", ("error", "warning"))]
    """The lowest severity that refuses an adapter."""
    adapters: tuple[Result, ...]
    notices: tuple[str, ...]
    """Notices about the run itself."""
    error: LoraCliError | None = None
    """Why ``--strict`` refuses the set itself: its lock does not fit."""
    exit_code: Count = 0
    naming: Naming = field(metadata=EXCLUDED)
    baseline: str = field(metadata=EXCLUDED)
    """The file of known findings, or empty."""
    strict: InitVar[bool] = False
    """Whether what could not be checked refuses an adapter, too."""

    def __post_init__(self, strict: bool) -> None:
        for one in self.adapters:
            of = partial(self.naming.fingerprint, one)
            one.findings, one.outcome = tuple(replace(each, fingerprint=of(each)) for each in one.findings), "ok"
            if one.error is not None:
                one.outcome, one.exit_code = "failed", one.error.exit_code
            elif one.refused(self.fail_on):
                one.outcome, one.exit_code = "refused", 1
            elif one.unchecked or (strict and one.incomplete):
                one.outcome, one.exit_code = "unchecked", one.strict_code * strict
            elif any(found.accepted and found.severity >= self.fail_on for found in one.findings):
                one.outcome = "accepted"
        self.exit_code = max((one.exit_code for one in self.adapters), default=0)
        if self.error is not None:
            self.exit_code = max(self.exit_code, self.error.exit_code)

    def found(self) -> Iterator[tuple[Result, Finding]]:
        """Each finding with its adapter, in their order."""
        return ((one, finding) for one in self.adapters for finding in one.findings)


def accept_known(
    one: Result, naming: Naming, known: "Mapping[str, AcceptedFinding] | None", where: str
) -> tuple[Finding, ...]:
    """The findings, of which those are accepted that are ``known`` in the file ``where``, today; notes never are.

    Without a file all that count are accepted: they are about to be written to ``where``. Those of an adapter that
    could not be read are not: its other findings are unknown.
    """
    findings = list[Finding]()
    for finding in one.findings:
        entry = None if known is None else known.get(naming.fingerprint(one, finding))
        is_known = not unread(one) if known is None else entry is not None and not entry.is_over
        accepted = Accepted(where, "" if entry is None else entry.reason) if is_known else None
        findings.append(finding if finding.severity is Severity.NOTE else replace(finding, accepted=accepted))
    return tuple(findings)


def unread(one: Result) -> list[str]:
    """The rules that report unreadable files of an adapter."""
    from lora_cli.checks import UNREAD

    return sorted({finding.code for finding in one.findings if finding.code in UNREAD})


def inside(source: str, directory: Path) -> str | None:
    """A local adapter's folder relative to ``directory``, with slashes; None if it is not below it."""
    path = unquote(source.removeprefix(LOCAL), errors="surrogateescape")
    return below(path, directory) if source.startswith(LOCAL) else None


def below(path: str, directory: Path) -> str | None:
    """``path`` (absolute or relative to ``directory``) as a path below ``directory``; None if it is not below it."""
    whole = posixpath.normpath(posixpath.join(directory, path))
    return PurePosixPath(whole).relative_to(directory).as_posix() if Path(whole).is_relative_to(directory) else None


def unpinned(source: str) -> str:
    """A reference without its revision: the next commit of an adapter is the same adapter."""
    return source.partition("@")[0] if source.startswith("hf://") else source
