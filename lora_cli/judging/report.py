"""The report of ``validate``: its results, and counts over them. All formats read it, and JSON is its fields."""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import unquote

from lora_cli.base.base_model import BaseModel
from lora_cli.checks import UNREAD
from lora_cli.checks.check import Check
from lora_cli.finding import Accepted, Finding, Severity
from lora_cli.json_schema import EXCLUDED, Count, Keyword, PositiveCount, Version
from lora_cli.judging.result import Result
from lora_cli.version import __version__

if TYPE_CHECKING:
    from lora_cli.documents.baseline import AcceptedFinding

LOCAL = "file://"


@dataclass(frozen=True, slots=True)
class ValidateSummary:
    """Counts over all adapters. Errors, warnings and notes are those that count; known ones do not."""

    adapters: Count
    unchecked: Count
    refused: Count
    failed: Count
    errors: Count
    warnings: Count
    notes: Count
    known: Count
    skipped: Count
    engines: Mapping[str, Mapping[str, PositiveCount]]
    """For each engine, how many adapters have each outcome."""
    exit_code: Count
    ok: int = field(metadata=EXCLUDED)
    accepted: int = field(metadata=EXCLUDED)
    """Adapters that would be refused if the baseline did not accept a finding."""


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
        """32 hexadecimal digits that identify rule and location, independent of the message."""
        at = finding.problem.at
        parts = (self.identity(one), finding.code, at.file, at.field)
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
    summary: ValidateSummary = field(default_factory=lambda: summarize(()))
    rules: tuple[Check, ...] = field(metadata=EXCLUDED)
    """The rules that ran."""
    naming: Naming = field(metadata=EXCLUDED)
    baseline: str = field(metadata=EXCLUDED)
    """The file of known findings, or empty."""
    strict: InitVar[bool] = False
    """Whether what could not be checked refuses an adapter, too."""

    def __post_init__(self, strict: bool) -> None:
        told = []
        for one in self.adapters:
            findings = tuple(replace(each, fingerprint=self.naming.fingerprint(one, each)) for each in one.findings)
            told.append(new := replace(one, findings=findings, outcome="ok"))
            if one.error is not None:
                new.outcome, new.exit_code = "failed", one.error.exit_code
            elif one.refused(self.fail_on):
                new.outcome, new.exit_code = "refused", 1
            elif one.unchecked or (strict and one.is_incomplete):
                new.outcome, new.exit_code = "unchecked", int(strict and one.is_incomplete)
            elif any(found.accepted and found.severity >= self.fail_on for found in findings):
                new.outcome = "accepted"
        self.adapters, self.summary = tuple(told), summarize(told)

    def found(self) -> Iterator[tuple[Result, Finding]]:
        """Each finding with its adapter, in their order, the worst of an adapter first."""
        return ((one, finding) for one in self.adapters for finding in one.worst_first)


def summarize(adapters: Sequence[Result]) -> ValidateSummary:
    """The summary of ``adapters``."""
    findings = [finding for one in adapters for finding in one.findings]
    counts = Counter[object](finding.severity for finding in findings if finding.accepted is None)
    counts.update(one.outcome for one in adapters)
    engines: dict[str, Counter[str]] = {}
    for engine in (engine for one in adapters for engine in one.engines):
        engines.setdefault(str(engine), Counter())[engine.outcome.label] += 1
    return ValidateSummary(
        adapters=len(adapters),
        unchecked=counts["unchecked"],
        refused=counts["refused"],
        failed=counts["failed"],
        errors=counts[Severity.ERROR],
        warnings=counts[Severity.WARNING],
        notes=counts[Severity.NOTE],
        known=sum(finding.accepted is not None for finding in findings),
        skipped=sum(len(one.skipped) for one in adapters),
        engines=engines,
        exit_code=max((one.exit_code for one in adapters), default=0),
        ok=counts["ok"],
        accepted=counts["accepted"],
    )


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
