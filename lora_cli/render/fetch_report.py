"""The reports of ``fetch`` and ``fetch --check``, of which JSON is the fields."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lora_cli.errors import Refused
from lora_cli.fetching.batch import Outcome
from lora_cli.fetching.file_selection import LeftOut
from lora_cli.fetching.preview import CheckedAdapter, PlannedAdapter
from lora_cli.json_schema import (
    EXCLUDED,
    INLINE,
    Count,
    ErrorReport,
    NonNegative,
    Sha256,
    Sha256OrEmpty,
    Version,
    error_report,
)
from lora_cli.refs.lock import Lock
from lora_cli.store.materialize import NotPruned, Published
from lora_cli.text import counted, milliseconds, safe, size
from lora_cli.version import __version__


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One file of a snapshot: its path in the adapter's folder."""

    path: str
    sha256: Sha256OrEmpty
    """Empty if no reference means a snapshot in the cache."""
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
    left_out: LeftOut | None
    """What the source has and an adapter does not need; null if that is not known."""
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
    unchecked: Sequence[str]
    """With --publish: what could not be checked of it."""
    fetched: FetchedSnapshot | None = field(default=None, metadata=INLINE)
    typed: str = field(default="", metadata=EXCLUDED)
    """The reference as it was typed, where the adapter is known by that."""


@dataclass(frozen=True, slots=True)
class LockChanges:
    """A lock file, and what was changed in it: adapters by name, and ``the base``."""

    file: str
    added: Sequence[str] = ()
    changed: Sequence[str] = ()
    removed: Sequence[str] = ()


def lock_changes(file: Path, before: Lock, after: Lock) -> LockChanges:
    """How the lock ``after`` differs from the one ``before``."""
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return LockChanges(str(file), sorted(after.keys() - before.keys()), changed, sorted(before.keys() - after.keys()))


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
    """The message for one adapter."""
    return FetchedAdapter(
        name=outcome.request.name,
        ref=outcome.request.canonical,
        milliseconds=outcome.ms,
        exit_code=outcome.exit_code,
        error=None if outcome.error is None else error_report(outcome.error),
        unchecked=outcome.unchecked,
        fetched=_snapshot(outcome),
        typed="" if outcome.request.at else outcome.request.written,
    )


def _snapshot(outcome: Outcome) -> FetchedSnapshot | None:
    fetched = outcome.fetched
    if fetched is None:
        return None
    snapshot = fetched.snapshot
    return FetchedSnapshot(
        revision=fetched.revision,
        cached=fetched.cached,
        sha256=snapshot.digest,
        bytes=snapshot.size,
        left_out=fetched.left_out,
        directory=None if outcome.directory is None else str(outcome.directory),
        published=outcome.published,
        files=tuple(SnapshotFile(path, blob.sha256, blob.size) for path, blob in snapshot.files.items()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What changed since a lock was written. A field may be added under the same number."""

    schema: Literal["lora_cli/fetch-check/1"] = "lora_cli/fetch-check/1"
    version: Version = __version__
    lock: str
    adapters: Sequence[CheckedAdapter]
    """In the manifest's order; then ``the base``, where that is locked or is to be."""
    left_over: Sequence[str]
    """What is locked and not in the manifest."""
    exit_code: Count
    """1 for drift, else that of what kept a source from being asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What fetch would download. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/fetch-plan/1"] = "lora_cli/fetch-plan/1"
    version: Version = __version__
    adapters: Sequence[PlannedAdapter]
    pruned: Sequence[str]
    """Adapters that --prune would remove from the published folder, if all are fetched and published."""
    not_pruned: Sequence[NotPruned]
    """Published adapters that left the manifest and would stay, because of files in them that lora-cli did not
    publish."""
    exit_code: Count


def render_line(one: FetchedAdapter) -> str:
    """One adapter for standard error: a line about its fetch, or its error and the hint on a second line."""
    if one.error is not None:
        told = ("", one.error.message) if one.ref is None else (shown_name(one), _message(one, one.error))
        return error_line(*told, one.error.hint)
    fetched = one.fetched
    assert fetched is not None
    how = "in the cache" if fetched.cached else f"fetched in {milliseconds(one.milliseconds)} ms"
    which = f"revision {fetched.revision[:12]}" if fetched.revision else f"sha256 {fetched.sha256[:12]}"
    parts = [counted(len(fetched.files), "file"), size(fetched.bytes), how, which, *notes_of(one)]
    return f"{shown_name(one)}: {', '.join(parts)}"


def shown_name(one: FetchedAdapter) -> str:
    """The name of an adapter, or the reference as it was typed."""
    return safe(one.typed or one.name)


def error_line(name: str, message: str, hint: str) -> str:
    """An error, and its hint on a second line."""
    line = f"error: {name}: {safe(message)}" if name else f"error: {safe(message)}"
    return f"{line}\nhint: {safe(hint)}" if hint else line


def _message(one: FetchedAdapter, error: ErrorReport) -> str:
    """The error message without the adapter's name, which precedes it."""
    message = error.message.removeprefix(f"{one.ref}: ").removeprefix(f"{one.name}: ")
    if one.typed:
        message = message.removeprefix(f"{one.ref} ")
    return message.removeprefix(f"{one.name} ") if one.exit_code == Refused.exit_code else message


def notes_of(one: FetchedAdapter) -> list[str]:
    """The files that were left out, and the base that the adapter was published for."""
    left_out, published = one.fetched and one.fetched.left_out, one.fetched and one.fetched.published
    notes: list[str] = []
    if left_out and left_out.files:
        notes.append(f"{size(left_out.bytes)} in {counted(left_out.files, 'file')} left out")
    if published:
        notes.append(f"published for {safe(published.base)}")
    return notes
