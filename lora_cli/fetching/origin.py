"""From an origin to a snapshot on this disk: ask, plan, download, publish."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from lora_cli.core.lock import LockedAdapter, ref_at
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision, Snapshot, snapshot_digest
from lora_cli.errors import Changed, Corrupt, Offline, Unreachable
from lora_cli.fetching import Fetched
from lora_cli.fetching.checkpoint import LatestOf
from lora_cli.fetching.context import AdapterRequest, FetchContext
from lora_cli.fetching.demand import (
    asks_again,
    check_access,
    check_allowed,
    check_count,
    check_kept,
    check_size,
    check_snapshot,
)
from lora_cli.fetching.download import Job, download
from lora_cli.fetching.local_reuse import settled
from lora_cli.fetching.locked import at_lock, check_bytes, check_folder, upgrade_hint
from lora_cli.fetching.memory import Asked, known_blobs, not_cached, recall, recorded, remember, remembered
from lora_cli.fetching.plan import Selection, left_out, plan
from lora_cli.fetching.scheduler import Deadline
from lora_cli.sources import Source
from lora_cli.sources.registry import endpoints_of
from lora_cli.store import Store
from lora_cli.store.blobs import has_blob
from lora_cli.store.leases import lease
from lora_cli.store.snapshots import publish_snapshot

CHANGED_TRIES = 2
"""So often an origin is asked again that changed while it was read."""

log = logger(__name__)


def from_origin(request: AdapterRequest, source: Source, context: FetchContext, kept: Fetched | None = None) -> Fetched:
    """What ``fetching.bring`` gives when its origin must be asked, if only for access to what is ``kept`` here.

    Where the origin changed in the midst it is asked again. Of the other files nothing is lost.
    """
    for _ in range(CHANGED_TRIES):
        try:
            return _from_origin(request, source, context, kept)
        except Changed as error:
            log.info("%s; it is asked again", error.message)
    return _from_origin(request, source, context, kept)


def _from_origin(request: AdapterRequest, source: Source, context: FetchContext, kept: Fetched | None) -> Fetched:
    ref, name, demand, settings = request.ref, request.label, request.demand, context.settings
    deadline = Deadline.of(name, settings)
    if demand.locked is not None:
        ref = ref_at(ref, demand.locked)
    # Which folder the latest checkpoint is, only its origin's listing says.
    if kept is not None and not request.selection.latest:
        check_kept(ref, kept.revision, kept.snapshot.files, source, settings)
        return kept
    asked = _asked(ref, request, source, context)
    # A policy may say more of that folder.
    ref = asked.revision.ref
    check_allowed(demand, ref, settings, files=tuple(asked.files))
    if asks_again(ref, asked.revision.access, settings):
        check_access(replace(asked.revision, files=tuple(asked.files)), source, settings)
    check_count(name, len(asked.files), settings.max_files)
    context.total.spend(request.turn, name, sum(file.size or 0 for file in asked.files))
    with _explained(demand.locked, asked, source, context.store):
        fetched = _fetched(Job(name, asked, source, context, deadline))
    check_size(name, fetched.snapshot.size, settings.max_bytes)
    check_snapshot(demand, ref, fetched.snapshot, settings, request.selection)
    return fetched


def _asked(ref: AdapterRef, request: AdapterRequest, source: Source, context: FetchContext) -> Asked:
    """The revision that ``ref`` means now, and what is wanted of it."""
    selection, locked = request.selection, request.demand.locked
    revision = _resolved(ref, LatestOf(source) if selection.latest else source, selection, context)
    files = plan(revision, selection)
    if locked is not None:
        if revision.ref.scheme == "file":
            missing = [path for path, blob in locked.files.items() if not has_blob(context.store, blob)]
            check_folder(context.store, revision, files, locked, source, selection, read_later=missing)
        files, selection = at_lock(revision, locked, selection, files)
    return Asked(ref, revision, files, selection, endpoints_of(ref, context.settings)[-1])


@contextmanager
def _explained(locked: LockedAdapter | None, asked: Asked, source: Source, store: Store) -> Iterator[None]:
    """An origin that sends other bytes than are locked has most likely been written to since; a folder surely."""
    try:
        yield
    except Corrupt as error:
        if locked is None:
            raise
        if asked.revision.ref.scheme == "file":
            check_bytes(store, asked, locked, source)
        raise Corrupt(error.message, hint=upgrade_hint(locked)) from error


def _fetched(job: Job) -> Fetched:
    """The snapshot as it is here, else downloaded by this process or, while it waits, by another one."""
    store, asked, context = job.store, job.asked, job.context
    records = recorded(store, asked)
    snapshot, cached = recall(store, asked, records), True
    if snapshot is None:
        wait_s = job.deadline.left_s(context.settings.lease_s)
        with lease(store, asked.key, wait_s, lambda: context.progress.waiting(job.name)):
            records = recorded(store, asked)
            snapshot = recall(store, asked, records)
            if snapshot is None and job.deadline.passed:
                raise job.deadline.error()
            if snapshot is None:
                snapshot, cached = _published(replace(job, known=known_blobs(asked, records))), False
                if context.link and asked.revision.ref.scheme == "file":
                    asked = replace(asked, revision=settled(job.source, asked.revision))
                    files = tuple(asked.revision.file(file.path) or file for file in asked.files)
                    asked = replace(asked, files=files)
                remember(store, asked, snapshot, records)
    if cached:
        remember(store, asked, snapshot, records)
    return Fetched(snapshot, asked.revision.id, cached, left_out(asked.revision, asked.files))


def _resolved(ref: AdapterRef, source: Source, selection: Selection, context: FetchContext) -> Revision:
    try:
        return source.resolve(ref)
    except Offline as error:
        raise not_cached(context.store, ref, context.settings, error.hint) from error
    except Unreachable as error:
        if (found := remembered(context.store, ref, selection, context.settings)) is not None:
            hint = f"--offline takes what it was when it was last fetched: revision {found[0].revision}"
            raise Unreachable(error.message, hint=hint) from error
        raise


def _published(job: Job) -> Snapshot:
    blobs = download(job)
    job.context.hold.add(snapshot_digest(blobs.items()))
    return publish_snapshot(job.store, blobs)
