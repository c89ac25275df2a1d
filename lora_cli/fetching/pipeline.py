"""From a reference to a snapshot on this disk: look what is here, ask its origin, plan, download, publish, remember.

Bytes are checked here, never their meaning.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lora_cli.core.lock import LockedAdapter
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision, Snapshot, snapshot_digest
from lora_cli.errors import Changed, Corrupt, MachineError, Offline, Unreachable
from lora_cli.fetching.checkpoint import LatestOf
from lora_cli.fetching.context import AdapterRequest, FetchContext
from lora_cli.fetching.download import Job, download
from lora_cli.fetching.file_selection import LeftOut, Selection, left_out, plan, refuse_pickled
from lora_cli.fetching.local_reuse import settled
from lora_cli.fetching.locked_files import at_lock, check_bytes, check_folder, held, upgrade_hint
from lora_cli.fetching.requirements import (
    asks_again,
    check_access,
    check_allowed,
    check_count,
    check_kept,
    check_reference,
    check_size,
    check_snapshot,
)
from lora_cli.fetching.resolution_history import (
    Asked,
    access_of,
    known_blobs,
    not_cached,
    recall,
    recorded,
    remember,
    remembered,
)
from lora_cli.fetching.scheduler import Deadline
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import endpoint_of, endpoints_of
from lora_cli.store import Store, cachedir_tag
from lora_cli.store.blobs import LostBlob, has_blob
from lora_cli.store.leases import lease
from lora_cli.store.resolution_records import mark_used
from lora_cli.store.snapshots import publish_snapshot

TRIES = 3
"""So often is fetched again what others clean away meanwhile, or whose origin changed while it was read."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot, the id of the revision it is of, and whether all of it was here before.

    ``left_out`` is what else its origin has; None when that was not asked for. With ``asks_again`` it may be written to
    a folder only after its origin was asked.
    """

    snapshot: Snapshot
    revision: str
    cached: bool
    left_out: LeftOut | None = None
    asks_again: bool = False


def bring(request: AdapterRequest, context: FetchContext, source: Source | None = None) -> Fetched:
    """The snapshot of what ``request.ref`` means now, fetched from ``source`` as far as it is not here.

    Without ``source`` it is the run's for that reference. ``context.hold`` keeps the snapshot from then on. A pinned
    reference that is here costs no request, and with ``settings.offline`` nothing costs one: then the cache of the
    Hub's own client is asked instead, whose files are never downloaded again. ``request.demand`` and
    ``settings.policies`` are checked as early as they can be: before a request, before a byte, and before anybody is
    given the result. What it has locked is taken at the locked revision, costs no request when it is here, and is those
    bytes or nothing.

    Raises:
        NotFound, AccessDenied, Unreachable, Offline: the origin does not give it.
        FormatError: there is no adapter, or a file of it can never be read.
        Refused: pickled weights only, too many bytes, a path that leads out of it, what the policy forbids, or an
            origin that has something else than is locked.
        Corrupt: other bytes came than were promised, or the snapshot has another digest than is demanded.
        MachineError: this machine does not let us, or others take it away each time.
    """
    for left in reversed(range(TRIES)):
        try:
            fetched = _kept(request, context)
            if fetched is None or fetched.asks_again:
                fetched = _from_origin(request, source or context.sources.of(request.ref), context, fetched)
            if context.hold.keeps(fetched.snapshot.digest):
                return fetched
        except LostBlob:
            continue
        except Changed as error:
            if not left:
                raise
            log.info("%s; retrying", error.message)
    raise MachineError(
        f"{context.store.root} is being cleaned up while {request.label} is fetched",
        hint="stop the process that removes files there",
    )


def _kept(request: AdapterRequest, context: FetchContext) -> Fetched | None:
    """What needs no request, as far as it is here; see ``bring``. None when the origin must be asked.

    Raises:
        Offline: it must be, and the network is switched off.
        Refused, Corrupt, MachineError: see ``bring``.
    """
    demand, store, settings = request.demand, context.store, context.settings
    cachedir_tag.check_folder(store)
    check_reference(demand, request.ref, settings)
    ref = request.locked_ref
    fetched = _remembered(ref, store, settings, request.selection, demand.locked)
    if fetched is not None:
        check_size(request.label, fetched.snapshot.size, settings.max_bytes)
        check_snapshot(demand, ref, fetched.snapshot, settings, request.selection)
        if settings.policies:
            access = access_of(store, ref, request.selection, settings)
            fetched = replace(fetched, asks_again=asks_again(ref, access, settings))
    return fetched


def _remembered(
    ref: AdapterRef, store: Store, settings: Settings, selection: Selection, locked: LockedAdapter | None
) -> Fetched | None:
    """What needs no request: what is locked or pinned and here, and everything when the network is switched off."""
    offline = settings.offline and ref.scheme != "file"
    if locked is not None and not selection.chosen:
        # A folder is compared; of one that is gone the cache may still have what is locked.
        if ref.scheme == "file" and os.path.lexists(ref.location):
            return None
        refuse_pickled(locked.name, locked.files, selection)
        if (snapshot := held(store, ref, endpoint_of(ref, settings), locked, selection)) is not None:
            return Fetched(snapshot, locked.revision, cached=True)
    # A policy is held against the folder that the latest checkpoint is, and only a listing says which.
    elif (
        (offline or ref.pinned)
        and not (selection.latest and settings.policies)
        and (found := remembered(store, ref, selection, settings)) is not None
    ):
        record, snapshot = found
        mark_used(store, record)
        return Fetched(snapshot, record.revision, cached=True)
    if offline and ref.scheme != "hf":
        raise not_cached(store, ref, settings)
    return None


def _from_origin(request: AdapterRequest, source: Source, context: FetchContext, kept: Fetched | None) -> Fetched:
    """What ``bring`` gives when its origin must be asked, if only for access to what is ``kept`` here."""
    ref, name, demand, settings = request.locked_ref, request.label, request.demand, context.settings
    deadline = Deadline.of(name, settings)
    # Which folder the latest checkpoint is, only its origin's listing says.
    if kept is not None and not request.selection.latest:
        check_kept(ref, kept.revision, kept.snapshot.files, source, settings)
        return kept
    asked = _asked(request, source, context)
    # A policy may say more of that folder.
    ref = asked.revision.ref
    check_allowed(demand, ref, settings, files=asked.files)
    if asks_again(ref, asked.revision.access, settings):
        check_access(replace(asked.revision, files=asked.files), source, settings)
    check_count(name, len(asked.files), settings.max_files)
    context.total.spend(request.turn, name, sum(file.size or 0 for file in asked.files))
    with _explained(demand.locked, asked, source, context.store):
        fetched = _fetched(Job(name, asked, source, context, deadline))
    check_size(name, fetched.snapshot.size, settings.max_bytes)
    check_snapshot(demand, ref, fetched.snapshot, settings, request.selection)
    return fetched


def _asked(request: AdapterRequest, source: Source, context: FetchContext) -> Asked:
    """The revision that the reference means now, and the files that are requested of it."""
    ref, selection, locked = request.locked_ref, request.selection, request.demand.locked
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
            hint = f"--offline uses the version of the last fetch: revision {found[0].revision}"
            raise Unreachable(error.message, hint=hint) from error
        raise


def _published(job: Job) -> Snapshot:
    blobs = download(job)
    job.context.hold.add(snapshot_digest(blobs.items()))
    return publish_snapshot(job.store, blobs)
