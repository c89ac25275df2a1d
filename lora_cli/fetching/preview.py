"""``fetch --dry-run`` and ``--check``: what a fetch would do, and how a lock has drifted. Nothing is written."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING

from lora_cli.errors import LoraCliError, Offline
from lora_cli.fetching import gate
from lora_cli.fetching.batch import ordered_parallel_map
from lora_cli.fetching.file_selection import refuse_pickled, resolve, select_files
from lora_cli.fetching.pipeline import found_at, lookup, recorded, select
from lora_cli.json_schema import EXCLUDED, Count, ErrorReport, error_report
from lora_cli.refs.request import Request, Selection
from lora_cli.refs.snapshot import RemoteFile
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.sources.registry import Sources
from lora_cli.store import Store

if TYPE_CHECKING:
    from lora_cli.refs.request import LockedAdapter

MAX_HASHED_BYTES = 16 << 20
"""Remote files whose origin has no sha256 are read and hashed up to this size; larger ones may have changed."""


@dataclass(frozen=True, slots=True)
class PlannedAdapter:
    """What fetch would do with one adapter."""

    name: str
    ref: str | None
    revision: str | None = field(default_factory=NoneType)
    """What it means now; null if its source was not asked, or does not give it."""
    files: Count = 0
    bytes: Count = 0
    """Bytes of all files, as far as the source reports them."""
    missing_files: Count = 0
    """Files that are not in the cache."""
    missing_bytes: Count = 0
    """Bytes of these, as far as the source reports them."""
    exit_code: Count = 0
    error: ErrorReport | None = field(default_factory=NoneType)


def plan_all(requests: Sequence[Request], store: Store, settings: Settings) -> Iterator[PlannedAdapter]:
    """The plan for each request, in their order: origins are asked for listings, and no file is downloaded."""
    sources = Sources(settings)

    def planned(request: Request) -> PlannedAdapter:
        gate.refuse(request, settings)
        # A cached snapshot does not show which other files the origin has.
        found = None if request.selection.include else lookup(request, store, settings)
        snapshot, missing = None, list[RemoteFile]()
        if found is not None:
            record, snapshot = found
            ref, revision = found_at(record, request), record.revision
            refuse_pickled(request.label, snapshot.files, request.selection)
            files = tuple(RemoteFile(path, blob.size, blob.sha256) for path, blob in snapshot.files.items())
        else:
            listed = resolve(request, sources)
            ref, revision = listed.pinned, listed.id
            files, selection = select(request, listed)
            snapshot, known = recorded(request, listed, files, selection, store, settings)
        gate.refuse(request, settings, ref, files)
        if snapshot is not None:
            gate.check_promised(request, snapshot.files, ref)
        else:
            digests = ((file, known[file.path].sha256 if file.path in known else file.sha256) for file in files)
            missing = [file for file, sha256 in digests if not (sha256 and os.path.lexists(store.blob(sha256)))]
        total, to_load = (sum(file.size or 0 for file in some) for some in (files, missing))
        which = request.name, request.canonical, revision or None
        return PlannedAdapter(*which, len(files), total, len(missing), to_load)

    def failed(request: Request, error: LoraCliError) -> PlannedAdapter:
        reported = error_report(error)
        return PlannedAdapter(request.name, request.canonical, exit_code=error.exit_code, error=reported)

    yield from ordered_parallel_map(planned, requests, settings, failed)


@dataclass(frozen=True, slots=True)
class CheckedAdapter:
    """One locked adapter next to what its source has now."""

    name: str
    ref: str | None
    locked: str | None
    """The revision in the lock; null if it is not locked."""
    now: str | None
    """The revision that its source has now; null if it was not asked."""
    drift: Sequence[str]
    """What changed since it was locked, a sentence each."""
    exit_code: Count
    error: ErrorReport | None
    locked_version: str | None = field(default=None, metadata=EXCLUDED)
    """The revision in the lock, or the digest of what has none."""


def checked_adapter(
    request: Request, changes: Sequence[str] = (), now: str = "", error: LoraCliError | None = None
) -> CheckedAdapter:
    """One adapter with its ``changes``, a sentence each; ``now`` is the origin's revision ("" if it was not asked)."""
    was, code = request.locked, int(bool(changes)) if error is None else error.exit_code
    revision, version = (None, None) if was is None else (was.revision, was.revision or was.digest)
    about = request.name, request.canonical, revision, now or None
    return CheckedAdapter(*about, changes, code, error_report(error), version)


def find_drift(requests: Sequence[Request], settings: Settings) -> Iterator[CheckedAdapter]:
    """The changes at each origin since it was locked, in the order of ``requests``."""
    sources = Sources(settings)

    def checked(request: Request) -> CheckedAdapter:
        locked, ref = request.locked, request.ref
        assert locked is not None
        gate.refuse(request, settings)
        if ref.pinned and ref.revision == locked.revision:
            return checked_adapter(request, now=locked.revision)
        if settings.offline and ref.scheme != "file":
            raise Offline(f"{ref} cannot be checked, offline mode is on", hint="remove --offline")
        revision = resolve(replace(request, locked=None), sources)
        changes = tuple(_changes(locked, Files(sources.of(ref), revision), request.selection))
        return checked_adapter(request, changes, revision.id)

    def failed(request: Request, error: LoraCliError) -> CheckedAdapter:
        return checked_adapter(request, error=error)

    yield from ordered_parallel_map(checked, requests, settings, failed)


def _changes(locked: "LockedAdapter", files: Files, selection: Selection) -> Iterator[str]:
    revision = files.revision
    if revision.id == locked.revision:
        return
    if revision.ref.scheme == "hf":
        yield f"{revision.ref.revision or 'main'} moved from {locked.revision[:12]} to {revision.id[:12]}"
    elif revision.ref.scheme == "oci":
        tag = revision.ref.location.rpartition("/")[2].partition(":")[2] or "latest"
        yield f"{tag} moved from {locked.revision[:19]} to {revision.id[:19]}"
    planned = {file.path for file in select_files(revision, selection)}
    for path in sorted(planned | locked.files.keys()):
        file, blob = revision.file(path), locked.files.get(path)
        if file is None:
            yield f"{path} is missing"
        elif blob is None:
            yield f"{path} is new"
        elif file.size not in {None, blob.size}:
            yield f"{path} changed from {blob.size} to {file.size} bytes"
        elif file.sha256 is None and not files.on_disk and blob.size > MAX_HASHED_BYTES:
            found = f"the source has no sha256, and {blob.size} bytes are too many to read and compare"
            yield f"{path} may have changed: {found}"
        elif (file.sha256 or files.sha256(file, blob.size)) != blob.sha256:
            yield f"{path} has different bytes"
