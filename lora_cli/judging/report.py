"""The report of ``validate``: the one model that all its formats read. JSON is its fields."""

import hashlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

from lora_cli.adapter.config import CONFIG_CAP
from lora_cli.base.base_model import BaseModel
from lora_cli.checks.check import Check
from lora_cli.finding import EngineOutcome, Finding, Location, Severity
from lora_cli.grouping import by_key
from lora_cli.json_schema import EXCLUDED, Count, Keyword, PositiveCount, Version
from lora_cli.judging.result import Result
from lora_cli.version import __version__

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
    accepted: int = field(metadata=EXCLUDED)
    """Adapters that would be refused if the baseline did not accept a finding."""

    @property
    def ok(self) -> int:
        """Adapters with nothing at or above ``fail_on``, accepted or not, of which all was looked at."""
        return self.adapters - self.accepted - self.unchecked - self.refused - self.failed


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a finding for tools that open files: ``below`` the report's folder, ``elsewhere``, or remote.

    A remote ``path`` is the reference with its scheme as the first folder. ``line`` is 0 if it is unknown.
    """

    path: str
    kind: Literal["below", "elsewhere", "remote"]
    line: int = 0


@dataclass(frozen=True, slots=True)
class Naming:
    """Names of adapters that are the same on every machine, and the places of their files.

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
        inside = _inside(one.source, self.directory)
        return inside if inside is not None else _unpinned(one.source)

    def fingerprint(self, one: Result, finding: Finding) -> str:
        """32 hexadecimal digits that identify rule and location, independent of the message."""
        at = finding.problem.at
        parts = (self.identity(one), finding.code, at.file, at.field)
        return hashlib.sha256("\0".join(parts).encode(errors="backslashreplace")).hexdigest()[:32]

    def place(self, one: Result, at: Location) -> Place:
        """The place of ``at`` of an adapter: its file if it is below ``root``, else the manifest's line."""
        root = self.root or self.directory
        inside, file = _inside(one.source, root), at.file
        if inside is not None:
            path = _joined(inside, file)
            return Place(path, "below", _line_of(root / path, at.field) if file.endswith(".json") else 0)
        manifest, _, line = self.manifest.get(one.name, "").rpartition(":")
        if manifest and (below := _below(str(self.directory / manifest), root)) is not None:
            return Place(below, "below", int(line))
        scheme, _, address = _unpinned(one.source).rpartition("://")
        if scheme == "file":
            return Place(_joined(unquote(address), file), "elsewhere")
        return Place(_joined(posixpath.join(scheme, address), file), "remote")


@dataclass(frozen=True, slots=True, kw_only=True)
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
    summary: ValidateSummary
    rules: tuple[Check, ...] = field(metadata=EXCLUDED)
    """The rules that ran."""
    naming: Naming = field(metadata=EXCLUDED)
    baseline: str = field(metadata=EXCLUDED)
    """The file of known findings, or empty."""

    def found(self) -> Iterator[tuple[Result, Finding]]:
        """Each finding with its adapter, in their order, the worst of an adapter first."""
        return ((one, finding) for one in self.adapters for finding in one.worst_first)


def validate_report(
    results: Sequence[Result],
    fail_on: Severity = Severity.ERROR,
    *,
    strict: bool = False,
    base: BaseModel | None = None,
    rules: tuple[Check, ...] = (),
    naming: Naming = Naming(),
    baseline: str = "",
    notices: Sequence[str] = (),
) -> Report:
    """The report of one run of ``validate``, in the order of the results.

    ``notices`` are about the run itself, such as outdated entries of the baseline.
    """
    adapters = tuple(_reported(one, fail_on, naming, strict=strict) for one in results)
    return Report(
        base=base,
        fail_on=fail_on,
        adapters=adapters,
        notices=tuple(notices),
        summary=summarize(adapters),
        rules=rules,
        naming=naming,
        baseline=baseline,
    )


def _reported(one: Result, fail_on: Severity, naming: Naming, *, strict: bool) -> Result:
    """The result with its outcome and exit code; an ``accepted`` one would be refused without baseline or policy."""
    told = replace(
        one, findings=tuple(replace(each, fingerprint=naming.fingerprint(one, each)) for each in one.findings)
    )
    if one.error is not None:
        return replace(told, outcome="failed", exit_code=one.error.exit_code)
    if one.refused(fail_on):
        return replace(told, outcome="refused", exit_code=1)
    if one.unchecked or (strict and one.is_incomplete):
        return replace(told, outcome="unchecked", exit_code=int(strict and one.is_incomplete))
    accepted = any(found.accepted and found.severity >= fail_on for found in told.findings)
    return replace(told, outcome="accepted" if accepted else "ok")


def engine_counts(one: Result, engine: EngineOutcome) -> bool:
    """Whether a finding counts that ``engine`` does not serve right: its check was selected, and it is not accepted."""
    return any(finding.accepted is None and engine.asked in finding.effects for finding in one.findings)


def summarize(adapters: Sequence[Result]) -> ValidateSummary:
    """The summary of ``adapters``."""
    findings = [finding for one in adapters for finding in one.findings]
    counting = [finding.severity for finding in findings if finding.accepted is None]
    outcomes = [one.outcome for one in adapters]
    labels = by_key((str(engine), engine.outcome.label) for one in adapters for engine in one.engines)
    return ValidateSummary(
        adapters=len(adapters),
        unchecked=outcomes.count("unchecked"),
        refused=outcomes.count("refused"),
        failed=outcomes.count("failed"),
        errors=counting.count(Severity.ERROR),
        warnings=counting.count(Severity.WARNING),
        notes=counting.count(Severity.NOTE),
        known=len(findings) - len(counting),
        skipped=sum(len(one.skipped) for one in adapters),
        engines={engine: Counter(found) for engine, found in labels.items()},
        exit_code=max((one.exit_code for one in adapters), default=0),
        accepted=outcomes.count("accepted"),
    )


def _line_of(path: Path, field: str) -> int:
    """The line of a JSON file with the first name of ``field`` as a key; 1 if there is none."""
    key = re.match(r"\w*", field)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            text = stream.read(CONFIG_CAP) or b""
    except OSError:
        return 1
    found = re.search(rb'"%b"\s*:' % key[0].encode(), text) if key and key[0] else None
    return text.count(b"\n", 0, found.start()) + 1 if found else 1


def _inside(source: str, directory: Path) -> str | None:
    """A local adapter's folder relative to ``directory``, with slashes; None if it is not below it."""
    if not source.startswith(LOCAL):
        return None
    return _below(unquote(source.removeprefix(LOCAL), errors="surrogateescape"), directory)


def _below(path: str, directory: Path) -> str | None:
    """``path`` (absolute or relative to ``directory``) as a path below ``directory``; None if it is not below it."""
    whole = posixpath.normpath(posixpath.join(directory, path))
    root = str(directory).rstrip("/") + "/"
    if whole + "/" == root:
        return "."
    return whole.removeprefix(root) if whole.startswith(root) else None


def _joined(folder: str, file: str) -> str:
    """A file's path; for one that leads out of its folder, the folder."""
    inner = posixpath.normpath(posixpath.join("/", file)).lstrip("/")
    return folder if inner != posixpath.normpath(file) else posixpath.normpath(posixpath.join(folder, inner))


def _unpinned(source: str) -> str:
    """A reference without its revision: the next commit of an adapter is the same adapter."""
    return source.partition("@")[0] if source.startswith("hf://") else source
