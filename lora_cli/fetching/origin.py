"""From an origin to a snapshot on this disk: ask, plan, download, publish."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from typing import ParamSpec

from lora_cli.core.lock import LockedAdapter, ref_at
from lora_cli.core.log import logger
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision, Snapshot, snapshot_digest
from lora_cli.errors import Changed, Corrupt, Offline, Unreachable
from lora_cli.fetching import ANYTHING, SILENT, USUAL, Fetched, kept
from lora_cli.fetching.access import asks_again, check_access, check_kept
from lora_cli.fetching.checkpoint import LatestOf
from lora_cli.fetching.crew import FAR_S
from lora_cli.fetching.deadline import Deadline
from lora_cli.fetching.demand import Demand, check_count, check_files, check_size, check_snapshot, most_bytes
from lora_cli.fetching.download import Job, download
from lora_cli.fetching.folders import check_bytes, check_folder
from lora_cli.fetching.lanes import Lanes
from lora_cli.fetching.locked import at_lock, upgrade_hint
from lora_cli.fetching.memory import Asked, known_blobs, not_cached, recall, recorded, remember, remembered
from lora_cli.fetching.near import settled
from lora_cli.fetching.plan import Selection, left_out, plan
from lora_cli.fetching.progress import Progress
from lora_cli.fetching.room import Room
from lora_cli.fetching.run import LOST_TRIES, Run, Total, cleaned
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_expecting
from lora_cli.sources.registry import endpoints_of
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob, has_blob
from lora_cli.store.leases import lease
from lora_cli.store.snapshots import publish_snapshot

P = ParamSpec("P")
CHANGED_TRIES = 2
"""So often an origin is asked again that changed while it was read."""

log = logger(__name__)


def _as_it_is_now(bring: Callable[P, Fetched]) -> Callable[P, Fetched]:
    """Begins again with a new listing where the origin changed in the midst. Of the other files nothing is lost."""

    @wraps(bring)
    def tried(*args: P.args, **kwargs: P.kwargs) -> Fetched:
        for _ in range(CHANGED_TRIES):
            try:
                return bring(*args, **kwargs)
            except Changed as error:
                log.info("%s; it is asked again", error.message)
        return bring(*args, **kwargs)

    return tried


@_as_it_is_now
def from_origin(
    ref: AdapterRef,
    source: Source,
    store: Store,
    settings: Settings,
    *,
    name: str = "",
    progress: Progress = SILENT,
    selection: Selection = USUAL,
    lanes: Lanes | None = None,
    demand: Demand = ANYTHING,
    link: bool = False,
    run: Run | None = None,
    turn: int = 0,
) -> Fetched:
    """What ``fetching.bring`` gives when it is not at hand; everything is as there.

    ``run`` is shared with other adapters, of which this is number ``turn``.
    """
    name, deadline = name or str(ref), Deadline.of(name or str(ref), settings)
    run = run or Run(Room(store, settings.keep_free, settings.cache_budget), Total(settings.max_total_bytes))
    # Which folder the latest checkpoint is, only its origin's listing says.
    ask = settings.policies and not selection.latest
    found = kept(ref, store, settings, name=name, selection=selection, demand=demand) if ask else None
    if demand.locked is not None:
        ref = ref_at(ref, demand.locked)
    if found is not None:
        check_kept(ref, found.revision, found.snapshot.files, source, settings)
        return found
    asked = _asked(ref, source, store, settings, selection, demand.locked, lanes)
    # A policy may say more of that folder.
    ref = asked.revision.ref
    check_files(demand, ref, asked.files, settings)
    if asks_again(ref, asked.revision.access, settings):
        check_access(replace(asked.revision, files=tuple(asked.files)), source, settings)
    check_count(name, len(asked.files), settings.max_files)
    run.total.spend(turn, name, sum(file.size or 0 for file in asked.files))
    most = most_bytes(settings)
    job = Job(
        name,
        asked.revision,
        source,
        store,
        progress,
        settings.retries,
        most,
        endpoint=asked.endpoint,
        link=link,
        room=run.room,
        hold=run.hold,
        deadline=deadline,
    )
    with _explained(demand.locked, asked, source, store):
        fetched = _fetched(job, asked, settings, lanes)
    check_size(job.name, fetched.snapshot.size, settings.max_bytes)
    check_snapshot(demand, ref, fetched.snapshot, settings, selection)
    return fetched


def _asked(
    ref: AdapterRef,
    source: Source,
    store: Store,
    settings: Settings,
    selection: Selection,
    locked: LockedAdapter | None,
    lanes: Lanes | None,
) -> Asked:
    """The revision that ``ref`` means now, and what is wanted of it."""
    revision = _resolved(ref, LatestOf(source) if selection.latest else source, store, settings, selection, lanes)
    files = plan(revision, selection)
    if locked is not None:
        if revision.ref.scheme == "file":
            missing = [path for path, blob in locked.files.items() if not has_blob(store, blob)]
            check_folder(store, revision, files, locked, source, selection, read_later=missing)
        files, selection = at_lock(revision, locked, selection, files)
    return Asked(ref, revision, files, selection, endpoints_of(ref, settings)[-1])


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


def _fetched(job: Job, asked: Asked, settings: Settings, lanes: Lanes | None) -> Fetched:
    """The snapshot as it is here, else downloaded by this process or, while it waits, by another one."""
    records = recorded(job.store, asked)
    snapshot, cached = recall(job.store, asked, records), True
    if snapshot is None:
        wait_s = settings.lease_s if job.deadline is None else job.deadline.left_s(settings.lease_s)
        with lease(job.store, asked.key, wait_s, lambda: job.progress.waiting(job.name)):
            records = recorded(job.store, asked)
            snapshot = recall(job.store, asked, records)
            if snapshot is None and job.deadline is not None and job.deadline.passed:
                raise job.deadline.error()
            if snapshot is None:
                known = known_blobs(asked, records)
                snapshot, cached = _published(replace(job, known=known), asked, lanes, settings.jobs), False
                if job.link and asked.revision.ref.scheme == "file":
                    asked = replace(asked, revision=settled(job.source, asked.revision))
                    files = tuple(asked.revision.file(file.path) or file for file in asked.files)
                    asked = replace(asked, files=files)
                remember(job.store, asked, snapshot, records)
    if cached:
        remember(job.store, asked, snapshot, records)
    return Fetched(snapshot, asked.revision.id, cached, left_out(asked.revision, asked.files))


def _resolved(
    ref: AdapterRef, source: Source, store: Store, settings: Settings, selection: Selection, lanes: Lanes | None
) -> Revision:
    began = time.monotonic()
    try:
        revision = source.resolve(ref)
    except Offline as error:
        raise not_cached(store, ref, settings, error.hint) from error
    except Unreachable as error:
        if (found := remembered(store, ref, selection, settings)) is not None:
            hint = f"--offline takes what it was when it was last fetched: revision {found.record.revision}"
            raise Unreachable(error.message, hint=hint) from error
        raise
    took_s = time.monotonic() - began
    # What was listed with others came at once, however far away it is.
    if lanes is not None and (took_s > FAR_S or not is_expecting(source)):
        lanes.distance.saw(0, took_s)
    return revision


def _published(job: Job, asked: Asked, lanes: Lanes | None, jobs: int) -> Snapshot:
    for _ in range(LOST_TRIES):
        try:
            with nullcontext(lanes) if lanes is not None else Lanes(jobs) as open_lanes:
                blobs = download(job, asked.files, open_lanes)
            if job.hold is not None:
                job.hold.add(snapshot_digest(blobs.items()))
            return publish_snapshot(job.store, blobs)
        except LostBlob:
            continue
    raise cleaned(job.store, job.name)
