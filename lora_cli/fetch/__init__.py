"""From a reference to a snapshot on this disk: plan, download, publish. Bytes are judged here, never their meaning."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Revision, Snapshot
from lora_cli.errors import MachineError, Offline, Unreachable
from lora_cli.fetch.download import Job, download
from lora_cli.fetch.lanes import Lanes
from lora_cli.fetch.memory import Asked, known_blobs, recall, remember, remembered
from lora_cli.fetch.plan import Selection, plan
from lora_cli.fetch.progress import Progress, Silent
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob
from lora_cli.store.leases import lease
from lora_cli.store.snapshots import publish_snapshot

__all__ = ["Fetched", "Lanes", "Progress", "Selection", "bring", "fetch"]

LOST_TRIES = 3
USUAL = Selection()
SILENT = Silent()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot, the id of the revision it is of, and whether all of it was here before."""

    snapshot: Snapshot
    revision: str
    cached: bool


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
) -> Fetched:
    """The snapshot of what ``ref`` means now, fetched as far as it is not here.

    A pinned reference that is here costs no request, and with ``settings.offline`` nothing costs one. ``name`` is what
    ``progress`` and messages call the adapter. ``lanes`` are shared with other adapters; without them it has its own.

    Raises:
        NotFound, AccessDenied, Unreachable, Offline: the origin does not give it.
        FormatError: there is no adapter, or a file of it can never be read.
        Refused: pickled weights only, too many bytes, or a path that leads out of it.
        Corrupt: other bytes came than were promised.
        MachineError: this machine does not let us.
    """
    name = name or str(ref)
    offline = settings.offline and ref.scheme != "file"
    if offline or ref.pinned:
        if (found := remembered(store, str(ref), selection)) is not None:
            return Fetched(found[1], found[0].revision, cached=True)
        if offline:
            raise Offline(f"{ref} is not in the cache, and the network is switched off", hint="fetch it online first")
    revision = _resolved(ref, source, store, selection)
    origin = settings.hub_endpoint if ref.scheme == "hf" else ""
    asked = Asked(revision, plan(revision, selection), selection, origin)
    if (snapshot := recall(store, asked)) is None:
        with lease(store, asked.key, settings.lease_s, lambda: progress.waiting(name)):
            snapshot = recall(store, asked)
            if snapshot is None:
                job = Job(name, revision, source, store, progress, settings.retries, settings.max_bytes)
                snapshot = _published(job, asked, lanes, settings.jobs)
                remember(store, asked, snapshot)
                return Fetched(snapshot, revision.id, cached=False)
    remember(store, asked, snapshot)
    return Fetched(snapshot, revision.id, cached=True)


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
