"""What ``fetch`` prints for people: a line for each adapter in a pipe, tables on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora_cli.core.text import counted, duration, milliseconds, safe, size
from lora_cli.errors import LoraCliError, Refused, UsageError
from lora_cli.fetching.many import Handed, Wanted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from lora_cli.core.lock import Changes, LockedAdapter
    from lora_cli.fetching.drift import Drift

STYLES = {"failed": "red", "cached": "", "downloaded": "green", "as locked": "green"}


def render_line(handed: Handed) -> str:
    """One adapter for standard error: how it went on one line, or its error and, on a second one, the hint."""
    outcome, fetched = handed.outcome, handed.outcome.fetched
    if outcome.error is not None:
        # What is no reference is named in the message.
        label = "" if isinstance(outcome.wanted.ref, UsageError) else _name(outcome.wanted)
        return _error(label, _message(outcome.wanted, outcome.error), outcome.error.hint)
    if fetched is None:
        return f"{_name(outcome.wanted)}: failed"
    how = "in the cache" if fetched.cached else f"fetched in {milliseconds(outcome.ms)} ms"
    which = f"revision {fetched.revision[:12]}" if fetched.revision else f"sha256 {fetched.snapshot.digest[:12]}"
    snapshot = fetched.snapshot
    parts = [counted(len(snapshot.files), "file"), size(snapshot.size), how, which, *_notes(handed)]
    return f"{_name(outcome.wanted)}: {', '.join(parts)}"


def _name(wanted: Wanted) -> str:
    return safe(wanted.typed or wanted.name)


def _error(name: str, message: str, hint: str) -> str:
    told = f"error: {name}: {safe(message)}" if name else f"error: {safe(message)}"
    return f"{told}\nhint: {safe(hint)}" if hint else told


def _message(wanted: Wanted, error: LoraCliError) -> str:
    """What is wrong, without the adapter's name, which stands before it."""
    message = error.message.removeprefix(f"{wanted.ref}: ").removeprefix(f"{wanted.name}: ")
    if wanted.typed:
        message = message.removeprefix(f"{wanted.ref} ")
    return message.removeprefix(f"{wanted.name} ") if isinstance(error, Refused) else message


def _notes(handed: Handed) -> list[str]:
    """What was not downloaded, and the base that the adapter was published for."""
    fetched, published = handed.outcome.fetched, handed.published
    notes: list[str] = []
    if fetched is not None and fetched.left_out is not None and fetched.left_out.files:
        left_out = fetched.left_out
        notes.append(f"{size(left_out.bytes)} in {counted(left_out.files, 'file')} left out")
    if published is not None:
        was = f" (its config said {safe(published.was or 'nothing')})" if published.was != published.base else ""
        notes.append(f"published for {safe(published.base)}{was}")
    return notes


def fetched_parts(done: Sequence[Handed], seconds: float) -> "Iterator[RenderableType]":
    """The table of a fetch that took ``seconds``, the directories and notes below it, and a line that sums it up."""
    from lora_cli.render.terminal import Paragraph, apart, facts, table_or_blocks

    header = ("adapter", "status", "revision", "files", "size", "time")
    places = [(_name(one.outcome.wanted), one.directory) for one in done if one.directory is not None]
    notes = [Paragraph(", ".join(notes), f"{_name(one.outcome.wanted)}: ") for one in done if (notes := _notes(one))]
    table = table_or_blocks(header, map(_row, done), left=3, names=True)
    return apart([table], facts(places, 0), notes, [_summary(done, seconds)])


def _row(handed: Handed) -> Sequence[object]:
    outcome, fetched = handed.outcome, handed.outcome.fetched
    label, took = (_name(outcome.wanted), _styled(_status(handed))), _seconds(outcome.ms / 1000)
    if fetched is None or outcome.error is not None:
        return (*label, None, None, None, took)
    which, snapshot = fetched.revision or fetched.snapshot.digest, fetched.snapshot
    return (*label, _short(which, 12), len(snapshot.files), size(snapshot.size), took)


def _status(handed: Handed) -> str:
    fetched = handed.outcome.fetched
    if handed.outcome.error is not None or fetched is None:
        return "failed"
    return "cached" if fetched.cached else "downloaded"


def _styled(status: str) -> "Text":
    from lora_cli.render.terminal import text

    return text(status, STYLES.get(status, "yellow"))


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.{1 if seconds >= 0.1 else 2}f} s"


def _summary(done: Sequence[Handed], seconds: float) -> str:
    words = [_status(one) for one in done]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("downloaded", "cached", "failed") if word in words)
    taken = sum(one.outcome.fetched.snapshot.size for one in done if one.outcome.fetched and not one.outcome.error)
    return f"{counted(len(done), 'adapter')}, {size(taken)}: {counts or 'nothing'} in {_seconds(seconds)}"


def _short(revision: str, digits: int) -> str:
    """The beginning of a revision, which may have a word before its digits (``etag-…``)."""
    word, dash, hexadecimal = revision.rpartition("-")
    return f"{word}{dash}{hexadecimal[:digits]}"


def render_changes(lock: object, changes: "Changes") -> str:
    """What became of a lock: a line for each adapter that was updated, and one that counts."""
    before, after = changes.before.by_name, changes.after.by_name
    lines = [f"Updated {safe(name)} {_moved(before[name], after[name])}" for name in changes.changed]
    told = (("added", changes.added), ("updated", changes.changed), ("removed", changes.removed))
    return "\n".join([*lines, f"{safe(lock)}: " + ", ".join(f"{len(names)} {what}" for what, names in told if names)])


def _moved(before: "LockedAdapter", after: "LockedAdapter") -> str:
    if before.source != after.source or before.checkpoint != after.checkpoint:
        old, new = (safe(" ".join(filter(None, (one.source, one.checkpoint)))) for one in (before, after))
        return f"{old} -> {new}"
    if before.revision != after.revision:
        return f"{_version(before, 7)} -> {_version(after, 7)}"
    why = "local folder changed" if not after.revision else "other files"
    return f"{before.digest[:7]} -> {after.digest[:7]} ({why})"


def _version(locked: "LockedAdapter", digits: int) -> str:
    return _short(locked.revision or locked.digest, digits)


def render_drift(drift: "Drift") -> str:
    """One adapter of ``--check`` on one line: what changed since it was locked."""
    return f"{safe(drift.wanted.name)}: {safe('; '.join(drift.changes)) or 'as locked'}\n"


def render_drift_error(drift: "Drift") -> str:
    """Why an adapter of ``--check`` could not be compared with its lock, for standard error."""
    assert drift.error is not None
    return _error(safe(drift.wanted.name), drift.error.message.removeprefix(f"{drift.wanted.ref}: "), drift.error.hint)


def drift_parts(drifts: Sequence["Drift"], left_over: Sequence[str]) -> "Iterator[RenderableType]":
    """The table of ``fetch --check``, what changed in each adapter, and a line that sums it up."""
    from lora_cli.render.terminal import Paragraph, apart, table_or_blocks

    rows = [(drift.wanted.name, *_drift_row(drift)) for drift in drifts]
    rows += [(name, _styled("removed"), None, None) for name in left_over]
    details = [Paragraph("; ".join(drift.changes), f"{safe(drift.wanted.name)}: ") for drift in drifts if drift.changes]
    details += [Paragraph("is locked, and not in the manifest", f"{safe(name)}: ") for name in left_over]
    unknown = sum(drift.error is not None for drift in drifts)
    as_locked = f"{counted(len(rows) - unknown, 'adapter')} as locked"
    told = f"{len(details)} of {len(rows)} changed; take them with --upgrade" if details else as_locked
    told += f"; {unknown} not checked" if unknown else ""
    return apart([table_or_blocks(("adapter", "status", "from", "to"), rows, left=4, names=True)], details, [told])


def _drift_row(drift: "Drift") -> tuple["Text", str | None, str | None]:
    locked, now = drift.wanted.locked, drift.now
    before = None if locked is None else _version(locked, 12)
    if drift.error is not None:
        return _styled("failed"), before, None
    if not drift.changes:
        return _styled("as locked"), before, before
    status = "not locked" if locked is None and drift.changes == ("is not locked",) else "changed"
    return _styled(status), before, _short(now, 12) if now and locked is not None and locked.revision else None
