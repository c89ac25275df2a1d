"""The reports of ``fetch``: their JSON is the fields, and what people read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lora_cli.fetching.batch import Outcome, PlannedAdapter
from lora_cli.json_schema import (
    EXCLUDED,
    INLINE,
    Count,
    ErrorReport,
    NonNegative,
    Sha256,
    Version,
    error_report,
)
from lora_cli.refs.request import THE_BASE, Lock, LockedAdapter
from lora_cli.reports.terminal import Paragraph, failure, table, text
from lora_cli.store.materialize import NotPruned, Published
from lora_cli.text import counted, duration, milliseconds, names, safe, size
from lora_cli.version import __version__

if TYPE_CHECKING:
    from lora_cli.fetching.lock_update import CheckedAdapter
    from lora_cli.reports.terminal import Parts


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One file of a snapshot: its path in the adapter's folder."""

    path: str
    sha256: Sha256
    bytes: Count


@dataclass(frozen=True, slots=True)
class FetchedSnapshot:
    """What was fetched."""

    revision: str
    """What the source calls this version; empty if it has no name for it."""
    cached: bool
    """Whether all of it was in the cache already."""
    sha256: Sha256
    """The snapshot's digest."""
    bytes: Count
    directory: str | None
    """Where the adapter can be used; null if it could not be put there."""
    published: Published | None
    files: tuple[SnapshotFile, ...]


@dataclass(frozen=True, slots=True)
class FetchedAdapter:
    """One adapter: its snapshot and where it can be used, or its error."""

    name: str
    ref: str | None
    """Its canonical reference; null if it is no reference."""
    milliseconds: NonNegative
    exit_code: Count
    error: ErrorReport | None
    warnings: Sequence[str]
    """With --publish: what could not be checked of it, and the findings that do not refuse it."""
    fetched: FetchedSnapshot | None = field(default=None, metadata=INLINE)
    typed: str = field(default="", metadata=EXCLUDED)
    """The reference as it was typed, where the adapter is known by that."""

    @property
    def shown(self) -> str:
        """The name, or the reference as it was typed."""
        return safe(self.typed or self.name)

    @property
    def status(self) -> str:
        """``downloaded``, ``cached`` or ``failed``."""
        if self.error is not None or self.fetched is None:
            return "failed"
        return "cached" if self.fetched.cached else "downloaded"


@dataclass(frozen=True, slots=True)
class LockChanges:
    """A lock file, and what was changed in it: adapters by name, and ``the base``."""

    file: str
    added: Sequence[str] = ()
    changed: Sequence[str] = ()
    removed: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """What fetch did. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/fetch/1"] = "lora_cli/fetch/1"
    version: Version = __version__
    adapters: Sequence[FetchedAdapter]
    lock: LockChanges | None
    """Null where there is no lock."""
    pruned: Sequence[str]
    """Adapters that --prune removed from the published folder."""
    not_pruned: Sequence[NotPruned]
    """Published adapters that left the manifest and stay, because of files in them that lora-cli did not publish."""
    exit_code: Count


def fetched_adapter(outcome: Outcome) -> FetchedAdapter:
    """The report of one adapter."""
    request, fetched, found = outcome.request, outcome.fetched, None
    if fetched is not None:
        files = (SnapshotFile(path, blob.sha256, blob.size) for path, blob in fetched.snapshot.files.items())
        found = FetchedSnapshot(
            fetched.revision,
            fetched.cached,
            fetched.snapshot.digest,
            fetched.snapshot.size,
            None if outcome.directory is None else str(outcome.directory),
            outcome.published,
            tuple(files),
        )
    typed, error = "" if request.at else request.written, None
    if outcome.error is not None:
        error = error_report(outcome.error)
    code, warnings = outcome.exit_code, outcome.warnings
    return FetchedAdapter(request.name, request.canonical, outcome.ms, code, error, warnings, found, typed)


def lock_changes(file: Path, before: Lock, after: Lock) -> LockChanges:
    """How the lock ``after`` differs from the one ``before``."""
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return LockChanges(str(file), sorted(after.keys() - before.keys()), changed, sorted(before.keys() - after.keys()))


def adapter_line(one: FetchedAdapter, *, verbose: bool = False) -> str:
    """One adapter for standard error: a line about its fetch, or its error and the hint on a second line."""
    fetched = one.fetched
    if one.error is not None or fetched is None:
        assert one.error is not None
        message = one.error.message.removeprefix(f"{one.ref}: ").removeprefix(f"{one.name}: ")
        place = (one.ref or "").removeprefix("file://")
        is_told = message.startswith(one.name) or (bool(one.typed) and (place or one.name) in message)
        name = "" if is_told else f"{one.shown}: "
        hint = f"\nhint: {safe(one.error.hint)}" if one.error.hint else ""
        return f"error: {name}{safe(message)}{hint}"
    parts = [one.status, counted(len(fetched.files), "file"), size(fetched.bytes)]
    parts.append(f"revision {fetched.revision[:12]}" if fetched.revision else f"sha256 {fetched.sha256[:12]}")
    if verbose:
        parts.append(f"{milliseconds(one.milliseconds)} ms")
        parts += [f"published for {safe(fetched.published.base)}"] if fetched.published else []
    return f"{one.shown}: {', '.join(parts)}"


def summary(done: Sequence[FetchedAdapter], seconds: float | None = None) -> str:
    """``33 adapters: 30 downloaded, 2 cached, 1 failed; 40.0 MiB``, and the time that it took."""
    words = [one.status for one in done]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("downloaded", "cached", "failed") if word in words)
    taken = sum(one.fetched.bytes for one in done if one.fetched and not one.error)
    took = "" if seconds is None else f" in {duration(seconds) if seconds >= 60 else f'{seconds:.2f} s'}"
    return f"{counted(len(done), 'adapter')}: {counts or 'nothing'}; {size(taken)}{took}"


def human_plan(planned: Sequence[PlannedAdapter], *, verbose: bool = False) -> "Parts":
    """What ``fetch --dry-run`` would download (``verbose``: and what is cached), the errors, and a summary."""
    good = [one for one in planned if one.error is None]
    rows = [
        (one.name, _short(one.revision or "", 12), one.files, size(one.bytes), size(one.missing_bytes))
        for one in good
        if verbose or one.missing_files
    ]
    if rows:
        yield table(("adapter", "revision", "files", "size", "download"), rows, left=2)
    for one in planned:
        if one.error is not None:
            yield from failure(one.name, "failed", one.error.message, one.error.hint)
    files, total = sum(one.missing_files for one in good), sum(one.missing_bytes for one in good)
    failed = len(planned) - len(good)
    line = f"{counted(len(planned), 'adapter')}: {counted(files, 'file')}, {size(total)} would be downloaded"
    yield Paragraph(line + (f"; {failed} failed" if failed else ""))


def human_check(checked: "Sequence[CheckedAdapter]", left_over: Sequence[str]) -> "Parts":
    """``fetch --check``: a line for each adapter that is not as it was locked, the errors, and a summary."""
    changed = [(one.name, "; ".join(one.drift)) for one in checked if one.drift]
    changed += [(name, "is locked but not in the manifest") for name in left_over]
    yield from (Paragraph(change, text(name, ": ")) for name, change in changed)
    failed = [one for one in checked if one.error is not None]
    for one in failed:
        assert one.error is not None
        yield from failure(one.name, "not checked", one.error.message.removeprefix(f"{one.ref}: "), one.error.hint)
    number = len([one for one in checked if one.name != THE_BASE]) + len(left_over)
    moved = len([name for name, _ in changed if name != THE_BASE])
    unknown = len([one for one in failed if one.name != THE_BASE])
    counts = {"unchanged": number - moved - unknown, "changed": moved, "not checked": unknown}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    more = "; lock the new versions with --upgrade" if changed else ""
    yield Paragraph(f"{counted(number, 'adapter')}: {told}{more}")


def changes_lines(changes: LockChanges, before: Lock, after: Lock) -> str:
    """The changes of a lock: a line for each updated adapter, and a summary."""
    lines = [f"Updated {safe(name)} {_moved(before[name], after[name])}" for name in changes.changed]
    by_change: Mapping[str, Sequence[str]] = {
        "added": changes.added, "updated": changes.changed, "removed": changes.removed,
    }  # fmt: skip
    counts = {what: len([name for name in found if name != THE_BASE]) for what, found in by_change.items()}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    parts += [f"{THE_BASE} {what}" for what, found in by_change.items() if THE_BASE in found]
    return "\n".join([*lines, f"{safe(changes.file)}: {', '.join(parts)}"])


def _moved(before: LockedAdapter, after: LockedAdapter) -> str:
    if before.source != after.source:
        return f"{safe(before.source)} -> {safe(after.source)}"
    has_moved = before.revision != after.revision
    return " -> ".join(_short((has_moved and one.revision) or one.digest, 7) for one in (before, after))


def _short(revision: str, digits: int) -> str:
    """A shortened revision; a prefix before its digits (``etag-…``) stays."""
    word, dash, hexadecimal = revision.rpartition("-")
    return f"{word}{dash}{hexadecimal[:digits]}"


def not_pruned_line(folder: str, one: NotPruned) -> str:
    """The warning about a published adapter that --prune leaves in ``folder``."""
    where, files = safe(f"{folder}/{one.name}"), safe(names(one.unlisted))
    return f"warning: {where} is not pruned: lora-cli did not publish {files} in it; remove these files and prune again"
