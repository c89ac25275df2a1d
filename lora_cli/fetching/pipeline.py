"""From a reference to a snapshot on this disk: look in the cache, resolve, select, download, publish, remember.

Bytes are checked here, never their meaning.
"""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

from lora_cli.core.adapter_files import SIGNATURE
from lora_cli.core.lock import upgrade_hint
from lora_cli.core.log import logger
from lora_cli.core.request import Request, Selection
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
from lora_cli.errors import Changed, Corrupt, MachineError
from lora_cli.fetching import cached, gate
from lora_cli.fetching.file_selection import LeftOut, left_out, refuse_pickled, resolve, select_files, select_locked
from lora_cli.settings import Settings
from lora_cli.sources import PinSource
from lora_cli.sources.registry import Sources, endpoints_of
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob
from lora_cli.store.locks import InUse, exclusive
from lora_cli.store.records import Record, mark_used
from lora_cli.store.snapshots import publish_snapshot

if TYPE_CHECKING:
    from lora_cli.fetching.disk_space import DiskSpace
    from lora_cli.fetching.readers import Readers

TRIES = 3
"""Attempts to fetch what others remove from the cache meanwhile, or whose origin changes while it is read."""

log = logger(__name__)


class Progress:
    """How a fetch reports its progress, from many threads, each with its ``adapter``'s name; shows nothing."""

    def began(self, adapter: str, size: int) -> None:
        """A download begins; ``size`` bytes are missing, as far as their number is known."""

    def advanced(self, adapter: str, count: int) -> None:
        """``count`` more bytes are here; a negative ``count`` takes wrong ones back."""

    def waiting(self, adapter: str) -> None:
        """This process waits for another one that downloads the same adapter."""

    def adapter_ended(self, adapter: str) -> None:
        """The adapter is done or has failed."""


SILENT = Progress()


class FetchContext:
    """The shared state of the fetches of one run: cache, settings, sources, threads and limits.

    ``in_use`` keeps what is fetched from being garbage-collected; by default, until the context is closed.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        progress: Progress = SILENT,
        *,
        in_use: InUse | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.store, self.settings, self.progress = store, settings, progress
        self.in_use, self._owns_locks = in_use or InUse(store), in_use is None
        self.sources = sources or Sources(settings)

    @cached_property
    def readers(self) -> "Readers":
        """The threads that read from origins."""
        from lora_cli.fetching.readers import Readers

        readers: Readers = vars(self).setdefault("readers", Readers(self.settings.jobs))  # threads may ask at once
        return readers

    @cached_property
    def disk_space(self) -> "DiskSpace":
        """The space that the adapters of this run share."""
        from lora_cli.fetching.disk_space import DiskSpace

        own = DiskSpace(self.store, self.settings.keep_free, self.settings.cache_budget)
        shared: DiskSpace = vars(self).setdefault("disk_space", own)
        return shared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if "readers" in vars(self):
            self.readers.close()
        if self._owns_locks:
            self.in_use.close()


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot, the id of its revision, and whether all of it was ``cached`` before.

    ``left_out`` is what else the origin has; None if the origin was not asked. ``signers`` are those that policies
    required.
    """

    snapshot: Snapshot
    revision: str
    cached: bool
    left_out: LeftOut | None = None
    signers: tuple[str, ...] = ()


def fetch(
    request: Request,
    context: FetchContext,
    *,
    revision: Revision | None = None,
    on_resolved: Callable[[], None] = lambda: None,
) -> Fetched:
    """The snapshot of what ``request.ref`` means now; what is not cached is downloaded.

    From then on ``context.in_use`` keeps the snapshot. A cached pinned reference costs no request, and with
    ``settings.offline`` none does: files then come from the cache of huggingface_hub, and are not downloaded. What
    ``request``, limits and policies demand is checked before a request, before a download, and before the snapshot is
    published. A locked adapter is fetched at its locked revision, costs no request when it is cached, and must have the
    locked bytes. ``revision`` is what it means, if that is known; ``on_resolved`` is called when it is.

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
            fetched = _from_cache(request, context) if revision is None else None
            if fetched is None:
                fetched = _from_origin(request, context, revision, on_resolved)
            if context.in_use.add(fetched.snapshot.digest):
                return fetched
        except LostBlob:
            continue
        except Changed as error:
            if not left:
                raise
            log.info("%s; retrying", error.message)
            revision = None
    said = f"{context.store.root} is being cleaned up while {request.label} is fetched"
    raise MachineError(said, hint="stop the process that removes files there")


def _from_cache(request: Request, context: FetchContext, pinned: Request | None = None) -> Fetched | None:
    """The cached snapshot that needs no request, within all limits and policies; None if the origin must be asked."""
    store, settings = context.store, context.settings
    store.check_folder()
    gate.refuse(request, settings)
    if (found := cached.lookup(pinned or request, store, settings)) is None:
        return None
    record, snapshot = found
    if request.locked is not None:
        refuse_pickled(request.label, snapshot.files, request.selection)
    unsigned = SIGNATURE not in snapshot.files and not (request.signature or request.locked or settings.offline)
    ref = cached.found_at(record, pinned or request)
    if unsigned and gate.signatures_for(request, settings, ref):
        return None  # it may have one by now, or had one before fetch took it
    signers = gate.accept(request, snapshot, settings, ref)
    mark_used(store, record)
    return Fetched(snapshot, record.revision, cached=True, signers=signers)


def _from_origin(
    request: Request,
    context: FetchContext,
    revision: Revision | None,
    on_resolved: Callable[[], None],
) -> Fetched:
    """The result of ``fetch`` when the origin must be asked."""
    from lora_cli.fetching.download import Job, download
    from lora_cli.fetching.readers import Deadline

    store, settings, locked = context.store, context.settings, request.locked
    deadline, source = Deadline.of(request.label, settings), context.sources.of(request.ref)
    if revision is None:
        with cached.hints(request, store, settings):
            if isinstance(source, PinSource) and not (request.ref.pinned or locked):
                pinned = replace(request, source=source.pin(request.ref))
                if (found := _from_cache(request, context, pinned)) is not None:
                    return found
            revision = resolve(request, context.sources)
    on_resolved()
    files, selection = select(request, revision)
    gate.refuse(request, settings, revision.pinned, files)

    endpoint = endpoints_of(request.ref, settings)[-1]
    key = "\n".join((str(replace(revision.ref, revision=None)), revision.id, str(selection), endpoint))
    signers: list[str] = []
    records: list[Record] = []

    def recorded() -> Snapshot | None:
        nonlocal records
        records = cached.earlier(request, revision, selection, store, settings)
        return cached.recorded(records, revision, files, store)

    def check(complete: Snapshot) -> None:
        signers.extend(gate.accept(request, complete, settings, revision.pinned))

    with ExitStack() as locks:
        if (snapshot := recorded()) is None:
            name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
            wait_s = deadline.left_s(settings.lease_s)
            locks.enter_context(exclusive(store, name, wait_s, lambda: context.progress.waiting(request.label)))
            snapshot = recorded()  # another process may have fetched it meanwhile
        is_cached = snapshot is not None
        if snapshot is not None:
            check(snapshot)
        elif deadline.passed:
            raise deadline.error()
        else:
            known = cached.known_blobs(records, revision, files)
            job = Job(request.label, revision, files, source, deadline, endpoint, known)
            try:
                blobs = download(job, context)
            except Corrupt as error:
                raise error if locked is None else Corrupt(error.message, hint=upgrade_hint(locked)) from error
            snapshot = publish_snapshot(store, blobs, check)
        meant, asked = revision, selection
        if locked is not None and revision.ref.scheme != "file" and revision.id != locked.revision:
            # The origin has other bytes by now: what it lists says nothing about those of the lock.
            meant, asked = replace(revision, id=locked.revision, files=()), replace(selection, locked=locked.digest)
        # Within the lock: who waits for it finds the record.
        cached.remember(request, meant, asked, snapshot, store, settings)
    return Fetched(snapshot, meant.id, is_cached, left_out(revision, files), tuple(signers))


def select(request: Request, revision: Revision) -> tuple[tuple[RemoteFile, ...], Selection]:
    """The files of a revision that are requested, and the selection that they are; raises as ``select_locked``."""
    files = select_files(revision, request.selection)
    if request.locked is None:
        return files, request.selection
    return select_locked(revision, request.locked, request.selection, files)
