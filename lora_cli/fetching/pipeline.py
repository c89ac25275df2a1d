"""From a reference to a snapshot on this disk: look in the cache, resolve, plan, download, publish, record.

Bytes are checked here, never their meaning.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from lora_cli.core.adapter_files import SIGNATURE
from lora_cli.core.lock import LockedAdapter
from lora_cli.core.log import logger
from lora_cli.core.provenance import Provenance
from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import Request, Selection
from lora_cli.core.snapshot import Revision, Snapshot
from lora_cli.errors import Changed, Corrupt, MachineError, Offline, Unreachable
from lora_cli.fetching.checkpoint import resolve
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.download import DownloadJob, download
from lora_cli.fetching.file_selection import LeftOut, left_out, refuse_pickled, select_files
from lora_cli.fetching.locked_files import (
    check_bytes,
    check_folder,
    locked_snapshot,
    select_locked,
    upgrade_hint,
)
from lora_cli.fetching.reference_names import entries_for
from lora_cli.fetching.requirements import (
    check_allowed,
    check_count,
    check_denied,
    check_provenance,
    check_size,
    check_snapshot,
)
from lora_cli.fetching.resolution_history import (
    FetchPlan,
    known_blobs,
    last_snapshot,
    not_cached_error,
    read_records,
    recorded_folder,
    recorded_snapshot,
    write_records,
)
from lora_cli.fetching.scheduler import Deadline
from lora_cli.settings import Settings
from lora_cli.sources import PinSource, Source
from lora_cli.sources.registry import endpoint_of, endpoints_of
from lora_cli.store import Store, cachedir_tag
from lora_cli.store.blobs import LostBlob, has_blob
from lora_cli.store.locks import exclusive
from lora_cli.store.resolution_records import mark_used
from lora_cli.store.snapshots import publish_snapshot

TRIES = 3
"""Attempts to fetch what others remove from the cache meanwhile, or whose origin changes while it is read."""

Check = Callable[[Snapshot], Provenance]
"""Checks a complete snapshot, and gives what policies required and accepted."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot, the id of its revision, and whether all of it was ``cached`` before.

    ``left_out`` is what else the origin has; None if the origin was not asked. ``provenance`` is what policies required
    and accepted.
    """

    snapshot: Snapshot
    revision: str
    cached: bool
    left_out: LeftOut | None = None
    provenance: Provenance = field(default_factory=Provenance)


def ignore(_stage: str) -> None:
    """Does nothing: the default."""


def fetch(
    request: Request,
    context: FetchContext,
    source: Source | None = None,
    *,
    revision: Revision | None = None,
    on_stage: Callable[[str], None] = ignore,
) -> Fetched:
    """The snapshot of what ``request.ref`` means now; what is not cached is downloaded from ``source``.

    ``source`` defaults to the run's source for that reference. From then on ``context.in_use`` keeps the snapshot. A
    cached pinned reference costs no request, and with ``settings.offline`` none does: files then come from the cache
    of huggingface_hub, and are not downloaded. What ``request`` demands is checked as early as possible, and so
    are ``settings.policies``: before a request, before a download, and before the result is returned. A locked adapter
    is fetched at its locked revision, costs no request when it is cached, and must have the locked bytes. A
    ``revision`` that was resolved before is not resolved again. ``on_stage`` is told when "fetch" begins.

    Raises:
        NotFound, AccessDenied, Unreachable, Offline: the origin does not give it.
        FormatError: there is no adapter, or one of its files can never be read.
        Refused: pickled weights only, too many bytes, a path outside of its folder, a policy, or an origin that differs
            from the lock.
        Corrupt: the received bytes are not the listed ones, or the snapshot has another digest than is demanded.
        MachineError: a disk error, or other processes remove the files each time.
    """
    for left in reversed(range(TRIES)):
        try:
            fetched = _from_cache(request, context)
            if fetched is None:
                source = source or context.sources.of(request.ref)
                fetched = _from_origin(request, source, context, revision, on_stage)
            if context.in_use.add(fetched.snapshot.digest):
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


def _from_cache(request: Request, context: FetchContext, pinned: AdapterRef | None = None) -> Fetched | None:
    """The cached snapshot that needs no request, within all limits and policies; None if the origin must be asked.

    ``pinned`` is the requested reference at the revision that its origin named now.

    Raises:
        Offline: the origin must be asked, but offline mode is on.
        Refused, Corrupt, MachineError: see ``fetch``.
    """
    store, settings = context.store, context.settings
    cachedir_tag.check_folder(store)
    check_allowed(request, settings)
    ref = pinned or request.locked_ref
    folder = recorded_folder(store, ref, request.selection, request.locked, settings)
    if folder is None and request.locked:
        return None  # policies may have rules for it
    ref = replace(ref, subfolder=folder or "")

    check = partial(_check, request, ref, settings)
    fetched = _lookup(replace(request, source=pinned or request.ref), store, settings, check)
    if fetched is not None and _lacks_signature(request, ref, fetched.snapshot, settings):
        return None  # it may have one by now, or had one before fetch took it
    if fetched is not None:
        fetched = replace(fetched, provenance=check(fetched.snapshot))
    return fetched


def _lacks_signature(request: Request, ref: AdapterRef, snapshot: Snapshot, settings: Settings) -> bool:
    """Whether a policy requires a signature that is not cached and may be at the origin."""
    if settings.offline or SIGNATURE in snapshot.files or request.signature or request.locked:
        return False
    return any(entries_for(name, settings) for name in _names(request, ref))


def _names(request: Request, ref: AdapterRef) -> tuple[AdapterRef, ...]:
    """``ref`` as it was requested, and at the revision of its lock or origin: a policy may be about either."""
    requested = replace(ref, revision=request.ref.revision) if ref.scheme == request.ref.scheme else ref
    return (requested,) if requested == ref else (requested, ref)


def _check(request: Request, ref: AdapterRef, settings: Settings, snapshot: Snapshot) -> Provenance:
    """Checks limits, digest, lock and policies of a complete snapshot of ``ref``, before or after it is published."""
    check_size(request.label, snapshot.size, settings.max_bytes)
    requested, *others = _names(request, ref)
    provenance = check_snapshot(replace(request, source=requested), snapshot, settings)
    for name in others:
        check_denied(name, settings)
        if settings.policies and not request.selection.base:
            others_say = check_provenance(replace(request, source=name), snapshot, settings)
            provenance = provenance.with_others(others_say)
    return provenance


def _lookup(request: Request, store: Store, settings: Settings, check: Check) -> Fetched | None:
    """The cached snapshot of a locked or pinned reference; in offline mode, of any reference."""
    ref, selection, locked = request.locked_ref, request.selection, request.locked
    offline = settings.offline and ref.scheme != "file"
    if locked is not None and not selection.include:
        # A local folder is compared with the lock. If it no longer exists, the cache may have the locked files.
        if ref.scheme == "file" and os.path.lexists(ref.location):
            return None
        refuse_pickled(locked.name, locked.files, selection)
        if (snapshot := locked_snapshot(store, ref, endpoint_of(ref, settings), locked, selection, check)) is not None:
            return Fetched(snapshot, locked.revision, cached=True)
    # Policies are checked against the folder of the latest checkpoint, which only a listing shows.
    elif (
        (offline or ref.pinned)
        and not (selection.latest and settings.policies)
        and (found := last_snapshot(store, ref, selection, settings)) is not None
    ):
        record, snapshot = found
        mark_used(store, record)
        return Fetched(snapshot, record.revision, cached=True)
    if offline and ref.scheme != "hf":
        raise not_cached_error(store, ref, settings)
    return None


def _from_origin(
    request: Request, source: Source, context: FetchContext, revision: Revision | None, on_stage: Callable[[str], None]
) -> Fetched:
    """The result of ``fetch`` when the origin must be asked."""
    ref, name, settings = request.locked_ref, request.label, context.settings
    deadline = Deadline.of(name, settings)
    if isinstance(source, PinSource) and revision is None and not (ref.pinned or request.locked):
        with _resolve_hints(ref, request.selection, context):
            pinned = source.pin(ref)
        if (found := _from_cache(request, context, pinned)) is not None:
            return found
    if revision is None:
        with _resolve_hints(ref, request.selection, context):
            revision = resolve(source, ref, latest=request.selection.latest)
    on_stage("fetch")
    plan = _plan_fetch(request, source, context, revision)
    # Policies may have rules for the folder of the checkpoint, or of the only adapter in an artifact.
    ref = plan.revision.ref
    requested, *others = _names(request, ref)
    check_allowed(replace(request, source=requested), settings, files=plan.files)
    for one in others:
        check_denied(one, settings)
    check_count(name, len(plan.files), settings.max_files)
    job = DownloadJob(name, plan, source, context, deadline)
    return _cached_or_downloaded(job, request.locked, partial(_check, request, ref, settings))


def _plan_fetch(request: Request, source: Source, context: FetchContext, revision: Revision) -> FetchPlan:
    """The files that are requested of the revision."""
    ref, selection, locked = request.locked_ref, request.selection, request.locked
    files = select_files(revision, selection)
    if locked is not None:
        if revision.ref.scheme == "file":
            missing = [path for path, blob in locked.files.items() if not has_blob(context.store, blob)]
            check_folder(context.store, revision, files, locked, source, selection, read_later=missing)
        files, selection = select_locked(revision, locked, selection, files)
    return FetchPlan(ref, revision, files, selection, endpoints_of(ref, context.settings)[-1])


@contextmanager
def _lock_hints(locked: LockedAdapter | None, plan: FetchPlan, source: Source, store: Store) -> Iterator[None]:
    """Adds to ``Corrupt`` that the origin probably changed since it was locked; a local folder is compared."""
    try:
        yield
    except Corrupt as error:
        if locked is None:
            raise
        if plan.revision.ref.scheme == "file":
            check_bytes(store, plan, locked, source)
        raise Corrupt(error.message, hint=upgrade_hint(locked)) from error


def _cached_or_downloaded(job: DownloadJob, locked: LockedAdapter | None, check: Check) -> Fetched:
    """The cached snapshot, else downloaded by this process or, while it waits for the lock, by another one.

    ``check`` is called before the snapshot is published: what it refuses, no other command can take.
    """
    store, plan, context = job.store, job.plan, job.context
    provenance: list[Provenance] = []
    # The cache may have a lock's bytes where the origin has others by now: they are not those of its revision.
    listed = (plan.revision.file(file.path) for file in plan.files)
    is_its_own = (
        locked is None
        or plan.revision.ref.scheme == "file"
        or plan.revision.id == locked.revision
        or all(file is not None and file.sha256 for file in listed)
    )
    records = read_records(store, plan)
    snapshot, cached = recorded_snapshot(store, plan, records), True
    if snapshot is None:
        wait_s = job.deadline.left_s(context.settings.lease_s)
        with exclusive(store, plan.key, wait_s, lambda: context.progress.waiting(job.name)):
            records = read_records(store, plan)
            snapshot = recorded_snapshot(store, plan, records)
            if snapshot is None and job.deadline.passed:
                raise job.deadline.error()
            if snapshot is None:
                with _lock_hints(locked, plan, job.source, store):
                    blobs = download(replace(job, known=known_blobs(plan, records)))
                snapshot = publish_snapshot(store, blobs, lambda one: provenance.append(check(one)))
                cached = False
    if cached:
        provenance.append(check(snapshot))
    if is_its_own:
        write_records(store, plan, snapshot)
    revision = plan.revision.id if locked is None or is_its_own else locked.revision
    return Fetched(snapshot, revision, cached, left_out(plan.revision, plan.files), provenance=provenance[-1])


@contextmanager
def _resolve_hints(ref: AdapterRef, selection: Selection, context: FetchContext) -> Iterator[None]:
    """Adds to an origin that cannot be asked what is cached of it."""
    try:
        yield
    except Offline as error:
        raise not_cached_error(context.store, ref, context.settings, error.hint) from error
    except Unreachable as error:
        if (found := last_snapshot(context.store, ref, selection, context.settings)) is not None:
            hint = f"--offline uses the version of the last fetch: revision {found[0].revision}"
            raise Unreachable(error.message, hint=hint) from error
        raise
