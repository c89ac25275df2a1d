"""All that one run of ``validate`` has to say, whatever it is rendered as."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lora_cli.core.finding import Finding, Severity
from lora_cli.validation.outcome import Checked

if TYPE_CHECKING:
    from lora_cli.core.base_model import BaseModel
    from lora_cli.rules.rule import Rule

LOCAL = "file://"


@dataclass(frozen=True, slots=True)
class Counts:
    """How the adapters of a run came out, and how much was found that counts (``errors``, ``warnings``, ``notes``).

    ``refused`` have a finding that refuses, ``accepted`` only ones that would if baseline or policy did not accept
    them; ``failed`` could not be read. ``known`` findings stand in the baseline, ``suppressed`` ones in a policy;
    ``skipped`` checks could not look. ``engines`` maps each engine that was named to how many adapters it does what
    with.
    """

    adapters: int
    accepted: int
    refused: int
    failed: int
    errors: int
    warnings: int
    notes: int
    known: int
    suppressed: int
    skipped: int
    engines: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def ok(self) -> int:
        """Adapters with nothing at or above ``fail_on``, accepted or not."""
        return self.adapters - self.accepted - self.refused - self.failed


@dataclass(frozen=True, slots=True)
class Place:
    """Where a finding is, for whoever opens files: ``below`` the report's folder, ``elsewhere`` here, or remote.

    A remote ``path`` is the reference with its scheme as the first folder. ``line`` is 0 where no line is known.
    """

    path: str
    kind: Literal["below", "elsewhere", "remote"]
    line: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Each adapter in the order asked for, and what all were judged against.

    ``directory`` is the folder that shown paths are relative to. ``manifest`` maps the names that a manifest gives to
    where it does (``set.yaml:12``). ``rules`` are those that judged. ``baseline`` is the file of known findings, if
    there is one. ``notices`` are sentences about the run itself: what baseline or policy say that is no longer so.
    """

    checked: tuple[Checked, ...]
    fail_on: Severity = Severity.ERROR
    base: "BaseModel | None" = None
    rules: "tuple[Rule, ...]" = ()
    directory: Path = Path()
    manifest: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""
    notices: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """What the run ends with: the largest of its adapters'."""
        return max((one.exit_code(self.fail_on) for one in self.checked), default=0)

    @property
    def counts(self) -> Counts:
        """How all came out."""
        return count(self.checked, self.fail_on)

    def found(self) -> Iterator[tuple[Checked, Finding]]:
        """Each finding with its adapter, in their order."""
        for one in self.checked:
            for finding in findings_of(one):
                yield one, finding

    def identity(self, one: Checked) -> str:
        """What an adapter is called on every machine, whatever is in it.

        Its name in the manifest, else its path from ``directory``, else its reference without the revision.
        """
        if one.name in self.manifest:
            return one.name
        inside = _inside(one.source, self.directory)
        return inside if inside is not None else _unpinned(one.source)

    def fingerprint(self, one: Checked, finding: Finding) -> str:
        """32 hexadecimal digits that stay the same as long as the rule finds something there: no message is in it."""
        import hashlib

        at, by = finding.problem.at, finding.problem.by
        parts = (self.identity(one), finding.code, at.file, at.field, *([by] if by else ()))
        return hashlib.sha256("\0".join(parts).encode(errors="backslashreplace")).hexdigest()[:32]

    def place(self, one: Checked, file: str) -> Place:
        """Where ``file`` of an adapter is: itself where it lies below ``directory``, else the manifest's line."""
        inside = _inside(one.source, self.directory)
        if inside is not None:
            return Place(_joined(inside, file), "below", int(file.endswith(".json")))
        manifest, _, line = self.manifest.get(one.name, "").rpartition(":")
        if manifest and (below := _below(manifest, self.directory)) is not None:
            return Place(below, "below", int(line))
        scheme, _, address = _unpinned(one.source).rpartition("://")
        if scheme == "file":
            from urllib.parse import unquote

            return Place(_joined(unquote(address), file), "elsewhere")
        return Place(_joined(posixpath.join(scheme, address), file), "remote")


def findings_of(one: Checked) -> Sequence[Finding]:
    """What was found, the worst first."""
    found = one.verdict.findings if one.verdict is not None else ()
    return sorted(found, key=lambda finding: -finding.severity)


def outcome_of(one: Checked, fail_on: Severity) -> Literal["ok", "accepted", "refused", "failed"]:
    """How one adapter came out; ``accepted`` would be refused without what baseline or policy accept."""
    if one.error is not None:
        return "failed"
    if one.exit_code(fail_on) != 0:
        return "refused"
    return "accepted" if any(found.accepted and found.severity >= fail_on for found in findings_of(one)) else "ok"


def count(checked: Sequence[Checked], fail_on: Severity) -> Counts:
    """How ``checked`` came out."""
    findings = [finding for one in checked for finding in findings_of(one)]
    counting = [finding.severity for finding in findings if finding.accepted is None]
    accepted = [finding.accepted.by for finding in findings if finding.accepted is not None]
    outcomes = [outcome_of(one, fail_on) for one in checked]
    return Counts(
        adapters=len(checked),
        accepted=outcomes.count("accepted"),
        refused=outcomes.count("refused"),
        failed=outcomes.count("failed"),
        errors=counting.count(Severity.ERROR),
        warnings=counting.count(Severity.WARNING),
        notes=counting.count(Severity.NOTE),
        known=accepted.count("baseline"),
        suppressed=accepted.count("policy"),
        skipped=sum(len(one.verdict.skipped) for one in checked if one.verdict is not None),
        engines=_by_engine(checked),
    )


def _by_engine(checked: Sequence[Checked]) -> dict[str, dict[str, int]]:
    """Engine to outcome to how many adapters have it."""
    found: dict[str, dict[str, int]] = {}
    for engine in (engine for one in checked if one.verdict is not None for engine in one.verdict.engines):
        outcomes = found.setdefault(str(engine), {})
        outcomes[engine.outcome.label] = outcomes.get(engine.outcome.label, 0) + 1
    return found


def _inside(source: str, directory: Path) -> str | None:
    """A local adapter's folder from ``directory``, with slashes; None for one that is not below it."""
    if not source.startswith(LOCAL):
        return None
    from urllib.parse import unquote

    return _below(unquote(source.removeprefix(LOCAL), errors="surrogateescape"), directory)


def _below(path: str, directory: Path) -> str | None:
    """``path``, which is relative to ``directory`` or absolute, from there; None for one that is not below it."""
    whole = posixpath.normpath(posixpath.join(directory, path))
    root = str(directory).rstrip("/") + "/"
    if whole + "/" == root:
        return "."
    return whole.removeprefix(root) if whole.startswith(root) else None


def _joined(folder: str, file: str) -> str:
    """A file's path; one that would lead out of its folder is the folder."""
    inner = posixpath.normpath(posixpath.join("/", file)).lstrip("/")
    return folder if inner != posixpath.normpath(file) else posixpath.normpath(posixpath.join(folder, inner))


def _unpinned(source: str) -> str:
    """A reference without its revision: the next commit of an adapter is the same adapter."""
    return source.partition("@")[0] if source.startswith("hf://") else source
