"""From a reference to a snapshot on this disk: plan, download, publish. Bytes are judged here, never their meaning."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision, Snapshot
from lora_cli.errors import Corrupt, MachineError, Offline, Unreachable
from lora_cli.fetch.checkpoint import latest
from lora_cli.fetch.demand import Demand, check_files, check_reference, check_size, check_snapshot
from lora_cli.fetch.download import Job, download
from lora_cli.fetch.lanes import Lanes
from lora_cli.fetch.memory import Asked, known_blobs, recall, remember, remembered
from lora_cli.fetch.near import settled
from lora_cli.fetch.plan import LeftOut, Selection, left_out, plan, refuse_pickled
from lora_cli.fetch.progress import Progress, Silent
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob
from lora_cli.store.leases import lease
from lora_cli.store.snapshots import publish_snapshot
from lora_cli.store.tag import check_folder

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter

__all__ = ["Fetched", "Lanes", "Progress", "Selection", "bring", "fetch"]

LOST_TRIES = 3
USUAL = Selection()
SILENT = Silent()
ANYTHING = Demand()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot, the id of the revision it is of, and whether all of it was here before.

    ``left_out`` is what else its origin has; None when that was not asked for.
    """

    snapshot: Snapshot
    revision: str
    cached: bool
    left_out: LeftOut | None = None


def fetch(
    ref: AdapterRef,
    source: Source,
    store: Store,
    settings: Settings,
    *,
    progress: Progress | None = None,
    selection: Selection = USUAL,
) -> Snapshot:
    """The snapshot of what ``ref`` means now; see ``bring``."""
    return bring(ref, source, store, settings, progress=progress or SILENT, selection=selection).snapshot


def bring(
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
) -> Fetched:
    """The snapshot of what ``ref`` means now, fetched as far as it is not here.

    A pinned reference that is here costs no request, and with ``settings.offline`` nothing costs one: then the cache of
    the Hub's own client is asked instead, whose files are never downloaded again. ``name`` is what
    ``progress`` and messages call the adapter. ``lanes`` are shared with other adapters; without them it has its own.
    With ``link`` the weights of a folder become hard links in the cache, where the file system lets them.
    ``demand`` is judged as early as it can be: before a request, before a byte, and before anybody is given the result.
    What it has locked is taken at the locked revision, costs no request when it is here, and is those bytes or nothing.

    Raises:
        NotFound, AccessDenied, Unreachable, Offline: the origin does not give it.
        FormatError: there is no adapter, or a file of it can never be read.
        Refused: pickled weights only, too many bytes, a path that leads out of it, what the policy forbids, or an
            origin that has something else than is locked.
        Corrupt: other bytes came than were promised, or the snapshot has another digest than is demanded.
        MachineError: this machine does not let us.
    """
    check_folder(store)
    check_reference(demand, ref, settings)
    locked = demand.locked
    if locked is not None:
        from lora_cli.core.lock import ref_at

        ref = ref_at(ref, locked)
    fetched = _remembered(ref, store, settings, selection, locked)
    if fetched is None:
        asked = _asked(ref, source, store, settings, selection, locked)
        revision = asked.revision
        check_files(demand, ref, asked.files)
        limits = [limit for limit in (settings.max_bytes, demand.policy.max_bytes) if limit is not None]
        most = min(limits, default=None)
        job = Job(name or str(ref), revision, source, store, progress, settings.retries, most, link=link)
        with _explained(locked):
            fetched = _fetched(job, asked, settings, lanes)
    check_size(name or str(ref), fetched.snapshot.size, settings.max_bytes)
    check_snapshot(demand, ref, fetched.snapshot)
    return fetched


def _remembered(
    ref: AdapterRef, store: Store, settings: Settings, selection: Selection, locked: "LockedAdapter | None"
) -> Fetched | None:
    """What needs no request: what is locked or pinned and here, and everything when the network is switched off."""
    offline = settings.offline and ref.scheme != "file"
    if locked is not None and not selection.chosen:
        from lora_cli.fetch.locked import held

        refuse_pickled(locked.name, locked.files, selection)
        if (snapshot := held(store, ref, locked, selection)) is not None:
            return Fetched(snapshot, locked.revision, cached=True)
    elif offline or ref.pinned:
        found = remembered(store, str(ref), selection)
        # What was adopted while the network was off is asked for once when it is on: its origin may list more files.
        if found is not None and (offline or found[0].origin or ref.scheme != "hf"):
            return Fetched(found[1], found[0].revision, cached=True)
    if offline and ref.scheme != "hf":
        raise Offline(f"{ref} is not in the cache, and the network is switched off", hint="fetch it online first")
    return None


def _asked(
    ref: AdapterRef,
    source: Source,
    store: Store,
    settings: Settings,
    selection: Selection,
    locked: "LockedAdapter | None",
) -> Asked:
    """The revision that ``ref`` means now, and what is wanted of it."""
    revision = _resolved(ref, source, store, selection)
    if selection.latest:
        revision = latest(revision)
    files = plan(revision, selection)
    if locked is not None:
        from lora_cli.fetch.locked import at_lock

        files, selection = at_lock(revision, locked, selection, files)
    origin = endpoint_of(ref, settings) if ref.scheme == "hf" and not settings.offline else ""
    return Asked(ref, revision, files, selection, origin)


@contextmanager
def _explained(locked: "LockedAdapter | None") -> Iterator[None]:
    """An origin that sends other bytes than are locked has most likely been written to since."""
    try:
        yield
    except Corrupt as error:
        if locked is None:
            raise
        from lora_cli.fetch.locked import upgrade_hint

        raise Corrupt(error.message, hint=upgrade_hint(locked)) from error


def _fetched(job: Job, asked: Asked, settings: Settings, lanes: Lanes | None) -> Fetched:
    """The snapshot as it is here, else downloaded by this process or, while it waits, by another one."""
    snapshot, cached = recall(job.store, asked), True
    if snapshot is None:
        with lease(job.store, asked.key, settings.lease_s, lambda: job.progress.waiting(job.name)):
            snapshot = recall(job.store, asked)
            if snapshot is None:
                snapshot, cached = _published(job, asked, lanes, settings.jobs), False
                if job.link and asked.revision.ref.scheme == "file":
                    asked = replace(asked, revision=settled(job.source, asked.revision))
                    files = tuple(asked.revision.file(file.path) or file for file in asked.files)
                    asked = replace(asked, files=files)
                remember(job.store, asked, snapshot)
    if cached:
        remember(job.store, asked, snapshot)
    return Fetched(snapshot, asked.revision.id, cached, left_out(asked.revision, asked.files))


def _resolved(ref: AdapterRef, source: Source, store: Store, selection: Selection) -> Revision:
    try:
        return source.resolve(ref)
    except Unreachable as error:
        if (found := remembered(store, str(ref), selection)) is not None:
            hint = f"--offline takes what it was when it was last fetched: revision {found[0].revision}"
            raise Unreachable(error.message, hint=hint) from error
        raise


def _published(job: Job, asked: Asked, lanes: Lanes | None, jobs: int) -> Snapshot:
    for _ in range(LOST_TRIES):
        try:
            known = known_blobs(job.store, asked)
            with nullcontext(lanes) if lanes is not None else Lanes(jobs) as open_lanes:
                blobs = download(replace(job, known=known), asked.files, open_lanes)
            return publish_snapshot(job.store, blobs)
        except LostBlob:
            continue
    raise MachineError(
        f"{job.store.root} is being cleaned while {job.name} is fetched", hint="stop whatever removes files there"
    )
