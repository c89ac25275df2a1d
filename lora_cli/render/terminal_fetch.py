"""The text output of ``fetch`` on a terminal: tables."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora_cli.fetching.preview import CheckedAdapter
from lora_cli.refs.lock import THE_BASE, Lock, LockedAdapter
from lora_cli.render.fetch_report import (
    CheckReport,
    FetchedAdapter,
    LockChanges,
    PlanReport,
    error_line,
    notes_of,
    shown_name,
)
from lora_cli.store.materialize import NotPruned
from lora_cli.text import counted, duration, names, safe, size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

STYLES = {"failed": "red", "cached": "", "downloaded": "green", "as locked": "green"}


def fetched_parts(done: Sequence[FetchedAdapter], seconds: float) -> "Iterator[RenderableType]":
    """The table of a fetch that took ``seconds``, directories, notes, and a summary."""
    from lora_cli.render.terminal import Paragraph, facts, separated, table_or_blocks

    header = ("adapter", "status", "revision", "files", "size", "time")
    places = [(shown_name(one), one.fetched.directory) for one in done if one.fetched and one.fetched.directory]
    notes = [Paragraph(", ".join(notes), f"{shown_name(one)}: ") for one in done if (notes := notes_of(one))]
    table = table_or_blocks(header, map(_row, done), left=3, names=True)
    return separated([table], facts(places, 0), notes, [_summary(done, seconds)])


def plan_parts(report: PlanReport) -> "Iterator[RenderableType]":
    """The table of ``fetch --dry-run``, the errors, and a summary."""
    from lora_cli.render.terminal import Paragraph, hints, table_or_blocks

    rows = []
    for one in report.adapters:
        status = "failed" if one.error else "would download" if one.missing_files else "cached"
        revision = _short(one.revision or "", 12)
        rows.append((safe(one.name), _styled(status), revision, one.files, size(one.bytes), size(one.missing_bytes)))
    yield table_or_blocks(("adapter", "status", "revision", "files", "size", "download"), rows, left=3, names=True)
    for one in report.adapters:
        if one.error is not None:
            yield Paragraph(safe(one.error.message), f"{safe(one.name)}: ")
            yield from hints(one.error.hint)
    files, total = (sum(getattr(one, name) for one in report.adapters) for name in ("missing_files", "missing_bytes"))
    yield f"{counted(len(report.adapters), 'adapter')}: {counted(files, 'file')}, {size(total)} would be downloaded"


def render_not_pruned(folder: str, one: NotPruned) -> str:
    """The warning about a published adapter that left the manifest and is still in ``folder``."""
    where, files = safe(f"{folder}/{one.name}"), safe(names(one.unlisted))
    return (
        f"warning: {where} is not pruned, although it is not in the manifest: lora-cli did not publish {files} in it; "
        "remove these files and prune again"
    )


def _row(one: FetchedAdapter) -> Sequence[object]:
    label, took = (shown_name(one), _styled(_status(one))), _seconds(one.milliseconds / 1000)
    if one.fetched is None or one.error is not None:
        return (*label, None, None, None, took)
    which = _short(one.fetched.revision or one.fetched.sha256, 12)
    return (*label, which, len(one.fetched.files), size(one.fetched.bytes), took)


def _status(one: FetchedAdapter) -> str:
    if one.error is not None or one.fetched is None:
        return "failed"
    return "cached" if one.fetched.cached else "downloaded"


def _styled(status: str) -> "Text":
    from lora_cli.render.terminal import text

    return text(status, STYLES.get(status, "yellow"))


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.{1 if seconds >= 0.1 else 2}f} s"


def _summary(done: Sequence[FetchedAdapter], seconds: float) -> str:
    words = [_status(one) for one in done]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("downloaded", "cached", "failed") if word in words)
    taken = sum(one.fetched.bytes for one in done if one.fetched and not one.error)
    return f"{counted(len(done), 'adapter')}, {size(taken)}: {counts or 'nothing'} in {_seconds(seconds)}"


def _short(revision: str, digits: int) -> str:
    """A shortened revision; a prefix before its digits (``etag-…``) stays."""
    word, dash, hexadecimal = revision.rpartition("-")
    return f"{word}{dash}{hexadecimal[:digits]}"


def render_changes(changes: LockChanges, before: Lock, after: Lock) -> str:
    """The changes of a lock: a line for each updated adapter, and a summary."""
    lines = [f"Updated {safe(name)} {_moved(before[name], after[name])}" for name in changes.changed]
    names_by_change = (("added", changes.added), ("updated", changes.changed), ("removed", changes.removed))
    counts = [(len([name for name in names if name != THE_BASE]), what) for what, names in names_by_change]
    parts = [f"{count} {what}" for count, what in counts if count]
    parts += [f"{THE_BASE} {what}" for what, names in names_by_change if THE_BASE in names]
    return "\n".join([*lines, f"{safe(changes.file)}: {', '.join(parts)}"])


def _moved(before: LockedAdapter, after: LockedAdapter) -> str:
    if before.source != after.source:
        return f"{safe(before.source)} -> {safe(after.source)}"
    if before.revision != after.revision:
        return f"{_version(before, 7)} -> {_version(after, 7)}"
    why = "local folder changed" if not after.revision else "other files"
    return f"{before.digest[:7]} -> {after.digest[:7]} ({why})"


def _version(locked: LockedAdapter, digits: int) -> str:
    return _short(locked.revision or locked.digest, digits)


def render_drift(one: CheckedAdapter) -> str:
    """A line for an adapter of ``--check``: its changes since it was locked."""
    return f"{safe(one.name)}: {safe('; '.join(one.drift)) or 'as locked'}\n"


def render_drift_error(one: CheckedAdapter) -> str:
    """The error of an adapter of ``--check`` that could not be compared with its lock, for standard error."""
    assert one.error is not None
    return error_line(safe(one.name), one.error.message.removeprefix(f"{one.ref}: "), one.error.hint)


def drift_parts(report: CheckReport) -> "Iterator[RenderableType]":
    """The table of ``fetch --check``, the changes of each adapter, and a summary."""
    from lora_cli.render.terminal import Paragraph, separated, table_or_blocks

    rows = [(one.name, *_drift_row(one)) for one in report.adapters]
    rows += [(name, _styled("removed"), None, None) for name in report.left_over]
    details = [Paragraph("; ".join(one.drift), f"{safe(one.name)}: ") for one in report.adapters if one.drift]
    details += [Paragraph("is locked but not in the manifest", f"{safe(name)}: ") for name in report.left_over]
    unknown = sum(one.error is not None for one in report.adapters)
    as_locked = f"{counted(len(rows) - unknown, 'adapter')} as locked"
    line = f"{len(details)} of {len(rows)} changed; lock the new versions with --upgrade" if details else as_locked
    line += f"; {unknown} not checked" if unknown else ""
    return separated([table_or_blocks(("adapter", "status", "from", "to"), rows, left=4, names=True)], details, [line])


def _drift_row(one: CheckedAdapter) -> tuple["Text", str | None, str | None]:
    before = None if one.locked_version is None else _short(one.locked_version, 12)
    if one.error is not None:
        return _styled("failed"), before, None
    if not one.drift:
        return _styled("as locked"), before, before
    status = "not locked" if one.locked is None and tuple(one.drift) == ("is not locked",) else "changed"
    return _styled(status), before, _short(one.now, 12) if one.now and one.locked else None
