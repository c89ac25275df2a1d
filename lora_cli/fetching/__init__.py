"""From a reference to a snapshot on this disk. Bytes are judged here, never their meaning.

``fetching.origin`` asks an origin, plans, downloads and publishes. Who has all that is wanted never imports it.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Snapshot
from lora_cli.errors import MachineError
from lora_cli.fetching.context import AdapterRequest, FetchContext
from lora_cli.fetching.demand import ANYTHING, Demand, asks_again, check_reference, check_size, check_snapshot
from lora_cli.fetching.memory import access_of, not_cached, remembered
from lora_cli.fetching.plan import USUAL, LeftOut, Selection, refuse_pickled
from lora_cli.fetching.progress import Progress
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import endpoint_of
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob
from lora_cli.store.records import mark_used
from lora_cli.store.tag import check_folder

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter

LOST_TRIES = 3
"""So often what others clean away meanwhile is fetched again."""

__all__ = [
    "ANYTHING",
    "USUAL",
    "AdapterRequest",
    "Demand",
    "FetchContext",
    "Fetched",
    "Progress",
    "Selection",
    "bring",
]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot, the id of the revision it is of, and whether all of it was here before.

    ``left_out`` is what else its origin has; None when that was not asked for. With ``asks_again`` it may be handed out
    only after its origin was asked.
    """

    snapshot: Snapshot
    revision: str
    cached: bool
    left_out: LeftOut | None = None
    asks_again: bool = False


def bring(request: AdapterRequest, context: FetchContext, source: Source | None = None) -> Fetched:
    """The snapshot of what ``request.ref`` means now, fetched from ``source`` as far as it is not here.

    Without ``source`` it is the run's for that reference. ``context.hold`` keeps the snapshot from then on.
    A pinned reference that is here costs no request, and with ``settings.offline`` nothing costs one: then the cache of
    the Hub's own client is asked instead, whose files are never downloaded again.
    ``request.demand`` and ``settings.policies`` are judged as early as they can be: before a request, before a byte,
    and before anybody is given the result.
    What it has locked is taken at the locked revision, costs no request when it is here, and is those bytes or nothing.

    Raises:
        NotFound, AccessDenied, Unreachable, Offline: the origin does not give it.
        FormatError: there is no adapter, or a file of it can never be read.
        Refused: pickled weights only, too many bytes, a path that leads out of it, what the policy forbids, or an
            origin that has something else than is locked.
        Corrupt: other bytes came than were promised, or the snapshot has another digest than is demanded.
        MachineError: this machine does not let us, or others take it away each time.
    """
    for _ in range(LOST_TRIES):
        with suppress(LostBlob):
            fetched = _kept(request, context)
            if fetched is None or fetched.asks_again:
                from lora_cli.fetching.origin import from_origin

                fetched = from_origin(request, source or context.sources.of(request.ref), context, fetched)
            if context.hold.keeps(fetched.snapshot.digest):
                return fetched
    raise MachineError(
        f"{context.store.root} is being cleaned while {request.label} is fetched",
        hint="stop whatever removes files there",
    )


def _kept(request: AdapterRequest, context: FetchContext) -> Fetched | None:
    """What needs no request, as far as it is here; see ``bring``. None when the origin must be asked.

    Raises:
        Offline: it must be, and the network is switched off.
        Refused, Corrupt, MachineError: see ``bring``.
    """
    ref, demand, store, settings = request.ref, request.demand, context.store, context.settings
    check_folder(store)
    check_reference(demand, ref, settings)
    if demand.locked is not None:
        from lora_cli.core.lock import ref_at

        ref = ref_at(ref, demand.locked)
    fetched = _remembered(ref, store, settings, request.selection, demand.locked)
    if fetched is not None:
        check_size(request.label, fetched.snapshot.size, settings.max_bytes)
        check_snapshot(demand, ref, fetched.snapshot, settings, request.selection)
        if settings.policies:
            access = access_of(store, ref, request.selection, settings)
            fetched = replace(fetched, asks_again=asks_again(ref, access, settings))
    return fetched


def _remembered(
    ref: AdapterRef, store: Store, settings: Settings, selection: Selection, locked: "LockedAdapter | None"
) -> Fetched | None:
    """What needs no request: what is locked or pinned and here, and everything when the network is switched off."""
    offline = settings.offline and ref.scheme != "file"
    if locked is not None and not selection.chosen:
        from lora_cli.fetching.locked import held

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
