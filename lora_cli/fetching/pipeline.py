"""From a reference to a snapshot on this disk: look in the cache, resolve, select, download, publish, remember.

Bytes are checked here, never their meaning.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_cli.errors import Changed, Corrupt, LoraCliError, MachineError, Offline, Refused, Unreachable
from lora_cli.fetching import gate
from lora_cli.fetching.file_selection import refuse_pickled, resolve, select
from lora_cli.redaction import logger
from lora_cli.refs.reference import WITH_REVISIONS, AdapterRef, parse
from lora_cli.refs.request import Request, Selection, upgrade_hint
from lora_cli.refs.snapshot import Blob, RemoteFile, Revision, Snapshot
from lora_cli.settings import Settings
from lora_cli.sources import ONLINE
from lora_cli.sources.files import Files, files_of
from lora_cli.sources.registry import Sources, endpoint_of
from lora_cli.store import Store
from lora_cli.store.records import Record, mark_used, read_record, write_record
from lora_cli.store.snapshots import LostBlob, find_snapshot, publish_snapshot

if TYPE_CHECKING:
    from lora_cli.fetching.batch import FetchContext

Found = tuple[Record, Snapshot]

TRIES = 3
"""Attempts to fetch what others remove from the cache meanwhile, or whose origin changes while it is read."""

log = logger(__name__)


class Deadline:
    """``adapter_timeout``: how long the adapter ``name`` may take from now on."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self._error = name, too_late(name, settings)
        self._until_s = time.monotonic() + settings.adapter_timeout_s

    def left_s(self, most_s: float) -> float:
        """Seconds that are left, at most ``most_s``. Raises ``Unreachable`` where there are none."""
        if (left_s := self._until_s - time.monotonic()) <= 0:
            raise self._error
        return min(most_s, left_s)


def too_late(name: str, settings: Settings) -> Unreachable:
    """The error for an adapter that takes too long."""
    hint = "what was downloaded is kept: run it again, or raise adapter_timeout (LORA_CLI_ADAPTER_TIMEOUT)"
    return Unreachable(f"{name} is not complete after {settings.adapter_timeout_s:g} s", hint=hint)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A snapshot, its revision's id, whether all of it was ``cached`` before, and the signers that were required."""

    snapshot: Snapshot
    revision: str
    cached: bool
    signers: tuple[str, ...] = ()


def fetch(request: Request, context: "FetchContext", *, revision: Revision | None = None) -> Fetched:
    """The snapshot of what ``request.ref`` means now; what is not cached is downloaded.

    From then on ``context.in_use`` keeps the snapshot. A cached pinned reference costs no request, and with
    ``settings.offline`` none does: files then come from the cache of huggingface_hub, and are not downloaded. A locked
    adapter is fetched at its locked revision, costs no request when it is cached, and must have the locked bytes.
    ``revision`` is what it means, if that is known.

    Raises ``NotFound``, ``AccessDenied``, ``Unreachable``, ``Offline`` (the origin does not give it), ``FormatError``
    (there is no adapter, or one of its files can never be read), ``Refused`` (pickled weights only, a limit, a policy,
    a path outside of its folder, or an origin that differs from the lock), ``Corrupt`` (other bytes than are listed,
    locked or demanded), ``MachineError`` (the disk, or other processes remove the files each time).
    """
    for left in reversed(range(TRIES)):
        try:
            fetched = _from_cache(request, context) if revision is None else None
            if fetched is None:
                fetched = _from_origin(request, context, revision)
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


def _from_cache(request: Request, context: "FetchContext", pinned: Request | None = None) -> Fetched | None:
    """The cached snapshot that needs no request, within all limits and policies; None if the origin must be asked."""
    store, settings = context.store, context.settings
    gate.refuse(request, settings)
    if (found := lookup(pinned or request, store, settings)) is None:
        return None
    record, snapshot = found
    if request.locked is not None:
        refuse_pickled(request.label, snapshot.files, request.selection)
    signers = gate.accept(request, snapshot, settings, found_at(record, pinned or request))
    mark_used(store, record)
    return Fetched(snapshot, record.revision, cached=True, signers=signers)


def _from_origin(request: Request, context: "FetchContext", revision: Revision | None) -> Fetched:
    """The result of ``fetch`` when the origin must be asked."""
    from lora_cli.fetching.download import download

    store, settings, locked = context.store, context.settings, request.locked
    deadline, source = Deadline(request.label, settings), context.sources.of(request.ref)
    if revision is None:
        pinned = request.ref if request.ref.pinned or locked else source.pin(request.ref)
        at_pin = replace(request, source=pinned)
        if pinned != request.ref and (found := _from_cache(request, context, at_pin)) is not None:
            return found
        revision = resolve(request, context.sources)
    at, endpoint, (files, selection) = Files(source, revision), _endpoint(request, settings), select(request, revision)
    gate.refuse(request, settings, revision.pinned, files)
    signed = gate.signed_by(request, settings, revision.pinned, at)
    beside = [] if signed is None else gate.signed_beside(request, settings, revision, files, signed)
    signers: list[str] = []

    def check(complete: Snapshot) -> None:
        signers.extend(gate.accept(request, complete, settings, at.revision.pinned))

    with ExitStack() as locks:
        snapshot, _ = recorded(request, revision, files, selection, store, settings)
        if snapshot is None:
            key = "\n".join((str(replace(revision.ref, revision=None)), revision.id, str(selection), endpoint))
            name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
            wait_s = deadline.left_s(settings.lease_s)
            locks.enter_context(store.lock(name, wait_s, lambda: context.progress.waiting(request.label)))
            # Another process may have fetched it meanwhile.
            snapshot, known = recorded(request, revision, files, selection, store, settings)
        if is_cached := snapshot is not None:
            check(snapshot)
        else:
            try:
                blobs = download(at, (*files, *beside), known, deadline, context)
            except Corrupt as error:
                if locked is None:
                    raise
                # Without revisions, an origin may have other files by now.
                kind = Corrupt if revision.id == locked.revision or request.ref.scheme in WITH_REVISIONS else Refused
                raise kind(error.message, hint=upgrade_hint(locked)) from error
            if signed is not None:
                signed.check(blobs, (), signed.files)
            snapshot = publish_snapshot(store, {file.path: blobs[file.path] for file in files}, check)
        # As the origin lists them: a lock may have added digests.
        identities = {file.path: file.identity for file in revision.files if file.path in snapshot.files}
        if locked is not None and revision.ref.scheme != "file" and revision.id != locked.revision:
            # The origin has other bytes by now: what it lists says nothing about those of the lock.
            revision, identities = replace(revision, id=locked.revision), {}
            selection = replace(selection, locked=locked.digest)
        # Within the lock: who waits for it finds the record.
        for name in _names(request, revision):
            which = name, str(selection), revision.id, snapshot.digest, snapshot.files
            write_record(store, Record(*which, identities, endpoint, str(revision.pinned)))
    return Fetched(snapshot, revision.id, is_cached, tuple(signers))


def lookup(request: Request, store: Store, settings: Settings) -> Found | None:
    """The cached snapshot that needs no request: of a locked or pinned reference, in offline mode of any.

    Nothing is written. None if the origin must be asked; a local folder is, as long as it exists.

    Raises ``Offline``: it must be asked, but offline mode is on.
    """
    ref, selection, locked = request.locked_ref, request.selection, request.locked
    offline = settings.offline and ref.scheme != "file"
    if ref.scheme == "file" and os.path.lexists(ref.location):
        return None
    if locked is not None and not selection.include:
        if (snapshot := find_snapshot(store, locked.files)) is not None:
            endpoint, keys = endpoint_of(ref, settings), (str(selection), str(replace(selection, locked=locked.digest)))
            known = (read_record(store, ref.in_records, key, endpoint) for key in keys)
            new = Record(ref.in_records, keys[1], locked.revision, snapshot.digest, snapshot.files, {}, endpoint)
            record = next((one for one in known if one is not None and one.snapshot == snapshot.digest), new)
            # From elsewhere: a policy may have rules for the folder that is meant, which a listing shows.
            if record.at or not settings.policies or not (selection.latest or ref.scheme == "oci"):
                return record, snapshot
    elif offline or ref.pinned:
        # Offline, what the Hub's own cache had counts, too.
        for endpoint in (endpoint_of(ref, settings), _endpoint(request, settings)):
            last = read_record(store, ref.in_records, str(selection), endpoint)
            if last is not None and (snapshot := find_snapshot(store, last.files)) is not None:
                return last, snapshot
    if offline and ref.scheme != "hf":
        raise Offline(f"{ref} is not cached and offline mode is on", hint=ONLINE)
    return None


def found_at(record: Record, request: Request) -> AdapterRef:
    """Where a record's snapshot was found, as far as it is known."""
    return parse(record.at, is_path=lambda _: False) if record.at else request.locked_ref


def open_files(request: Request, settings: Settings, sources: Sources) -> Files:
    """The files that ``request`` means, to read without a download, pickled ones too. Nothing is written.

    Pinned and locked references that are cached cost no request, and with ``settings.offline`` none does. Of any other
    reference the origin is asked for its revision, and what is cached of that is read from there.

    Raises ``LoraCliError``: as ``resolve``.
    """
    ref = request.locked_ref
    if ref.scheme == "file":
        return Files(sources.of(ref), resolve(request, sources))
    store, snapshot = Store(settings.cache_dir), None
    if (found := lookup(request, store, settings)) is not None:
        at = replace(found_at(found[0], request), revision=ref.revision)
        return files_of(found[1], at, found[0].revision)
    revision = resolve(request, sources)
    with suppress(LoraCliError):  # whoever reads it says what is wrong
        files, selection = select(request, revision)
        snapshot, _ = recorded(request, revision, files, selection, store, settings)
    return Files(sources.of(ref), revision, snapshot)


def recorded(
    request: Request,
    revision: Revision,
    files: Sequence[RemoteFile],
    selection: Selection,
    store: Store,
    settings: Settings,
) -> tuple[Snapshot | None, Mapping[str, Blob]]:
    """The cached snapshot of these files of a revision, by a record of an earlier fetch or by their digests.

    A digest in the listing or the lock takes precedence over a record. Without such a snapshot also path → blob of the
    files that are unchanged since, whether they are cached or not.
    """
    known = dict[str, Blob]()
    for name in _names(request, revision):
        if (record := read_record(store, name, str(selection), _endpoint(request, settings))) is None:
            continue
        blobs = {file.path: blob for file in files if (blob := record.blob(revision, file)) is not None}
        if len(blobs) == len(files) == len(record.files) and (found := find_snapshot(store, blobs)) is not None:
            return found, blobs
        known |= {file.path: blobs[file.path] for file in files if file.identity and file.path in blobs}
    blobs = {file.path: Blob(file.sha256, file.size) for file in files if file.sha256 and file.size is not None}
    return find_snapshot(store, blobs) if len(blobs) == len(files) else None, known


def _names(request: Request, revision: Revision) -> tuple[str, ...]:
    """The reference as it was asked for, and at the commit or digest that it meant."""
    ref = request.locked_ref
    pinned = replace(ref, revision=revision.id) if ref.scheme in WITH_REVISIONS else ref
    return tuple(dict.fromkeys((ref.in_records, pinned.in_records)))


def _endpoint(request: Request, settings: Settings) -> str:
    """The server that is asked; "" where none is: offline, the Hub's own cache is."""
    return "" if request.ref.scheme == "hf" and settings.offline else endpoint_of(request.ref, settings)
