"""What the cache has of a reference: before its origin is asked, and once that has listed a revision."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lora_cli.core.reference import WITH_REVISIONS, AdapterRef, parse
from lora_cli.core.request import Request, Selection
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, Snapshot
from lora_cli.errors import Offline, Unreachable
from lora_cli.fetching.file_selection import resolve
from lora_cli.settings import Settings
from lora_cli.sources.files import Files, files_of
from lora_cli.sources.registry import Sources, endpoint_of, endpoints_of
from lora_cli.store import Store
from lora_cli.store.records import Record, all_records, read_record, write_record
from lora_cli.store.snapshots import find_snapshot

Found = tuple[Record, Snapshot]


def lookup(request: Request, store: Store, settings: Settings) -> Found | None:
    """The cached snapshot that needs no request: of a locked or pinned reference, in offline mode of any.

    Nothing is written. None if the origin must be asked; a local folder is, as long as it exists.

    Raises:
        Offline: it must be asked, but offline mode is on.
    """
    ref, selection, locked = request.locked_ref, request.selection, request.locked
    offline = settings.offline and ref.scheme != "file"
    if ref.scheme == "file" and os.path.lexists(ref.location):
        return None
    if locked is None or selection.include:
        found = last_fetched(request, store, settings) if offline or ref.pinned else None
    elif (snapshot := find_snapshot(store, locked.files)) is None:
        found = None
    else:
        endpoint, keys = endpoint_of(ref, settings), (str(selection), str(replace(selection, locked=locked.digest)))
        known = (read_record(store, ref.in_records, key, endpoint) for key in keys)
        new = Record(ref.in_records, keys[1], locked.revision, snapshot.digest, snapshot.files, {}, endpoint)
        record = next((one for one in known if one is not None and one.snapshot == snapshot.digest), new)
        # From elsewhere: a policy may have rules for the folder that is meant, which a listing shows.
        is_open = not record.at and settings.policies and (selection.latest or ref.scheme == "oci")
        found = None if is_open else (record, snapshot)
    if found is None and offline and ref.scheme != "hf":
        raise not_cached(ref, store, settings)
    return found


def found_at(record: Record, request: Request) -> AdapterRef:
    """Where a record's snapshot was found, as far as it is known."""
    return parse(record.at, is_path=lambda _: False) if record.at else request.locked_ref


def last_fetched(request: Request, store: Store, settings: Settings) -> Found | None:
    """Record and snapshot of the last fetch of the reference from its endpoint, if it is still cached."""
    for endpoint in endpoints_of(request.ref, settings):
        record = read_record(store, request.locked_ref.in_records, str(request.selection), endpoint)
        if record is not None and (snapshot := find_snapshot(store, record.files)) is not None:
            return record, snapshot
    return None


def not_cached(ref: AdapterRef, store: Store, settings: Settings, hint: str = "fetch it online first") -> Offline:
    """The error in offline mode for what is not cached; it names other servers from which ``ref`` was fetched.

    Those snapshots are not used: two servers may mean different things by one reference.
    """
    endpoint = endpoint_of(ref, settings)
    others = {record.endpoint for record in all_records(store) if record.ref == ref.in_records} - {"", endpoint}
    where = f" from {endpoint}, only from {', '.join(sorted(others)[:3])}," if others else ""
    return Offline(f"{ref} is not cached{where} and offline mode is on", hint=hint)


@contextmanager
def hints(request: Request, store: Store, settings: Settings) -> Iterator[None]:
    """Adds to an origin that cannot be asked what is cached of it."""
    try:
        yield
    except Offline as error:
        raise not_cached(request.locked_ref, store, settings, error.hint) from error
    except Unreachable as error:
        if (found := last_fetched(request, store, settings)) is not None:
            hint = f"--offline uses the version of the last fetch: revision {found[0].revision}"
            raise Unreachable(error.message, hint=hint) from error
        raise


def open_files(request: Request, settings: Settings, sources: Sources) -> Files:
    """The files that ``request`` means, to read without a download, pickled ones too. Nothing is written.

    Pinned and locked references that are cached cost no request, and with ``settings.offline`` none does. Of any other
    reference the origin is asked for its revision, and what is cached of that is read from there.

    Raises:
        LoraCliError: as ``resolve``.
    """
    ref, store = request.locked_ref, Store(settings.cache_dir)
    if ref.scheme == "file":
        return Files(sources.of(ref), resolve(request, sources))
    if (found := lookup(request, store, settings)) is not None:
        at = replace(found_at(found[0], request), revision=ref.revision)
        return files_of(found[1], at, found[0].revision)
    with hints(request, store, settings):
        revision = resolve(request, sources)
    for record in earlier(request, revision, request.selection, store, settings):
        listed = [file for file in revision.files if file.path in record.files]
        if (snapshot := recorded([record], revision, listed, store)) is not None:
            return Files(sources.of(ref), revision, snapshot)
    return Files(sources.of(ref), revision)


def earlier(
    request: Request, revision: Revision, selection: Selection, store: Store, settings: Settings
) -> list[Record]:
    """The records of earlier fetches of the reference as it was asked for, and at ``revision``."""
    endpoint = endpoints_of(request.ref, settings)[-1]
    found = (read_record(store, name, str(selection), endpoint) for name in _names(request, revision))
    return [record for record in found if record is not None]


def recorded(
    records: Sequence[Record], revision: Revision, files: Sequence[RemoteFile], store: Store
) -> Snapshot | None:
    """The cached snapshot of these files of a revision, by a record or by their digests.

    A digest in the listing or the lock always takes precedence over a record.
    """
    for record in records:
        blobs = {file.path: blob for file in files if (blob := record.blob(revision, file)) is not None}
        if len(blobs) == len(files) == len(record.files) and (found := find_snapshot(store, blobs)) is not None:
            return found
    blobs = {file.path: Blob(file.sha256, file.size) for file in files if file.sha256 and file.size is not None}
    return find_snapshot(store, blobs) if len(blobs) == len(files) else None


def known_blobs(records: Sequence[Record], revision: Revision, files: Sequence[RemoteFile]) -> Mapping[str, Blob]:
    """Path → blob of the files that are unchanged since an earlier fetch, whether they are cached or not."""
    return {
        file.path: blob
        for record in records
        for file in files
        if file.identity and (blob := record.blob(revision, file)) is not None
    }


def remember(
    request: Request, revision: Revision, selection: Selection, snapshot: Snapshot, store: Store, settings: Settings
) -> None:
    """Records that the reference, as asked for and at ``revision``, is this snapshot. Raises ``MachineError``."""
    endpoint = endpoints_of(request.ref, settings)[-1]
    # As the origin lists them: a lock may have added digests.
    identities = {path: file.identity for path in snapshot.files if (file := revision.file(path)) is not None}
    for name in _names(request, revision):
        key, at = (name, str(selection), revision.id), str(revision.pinned)
        write_record(store, Record(*key, snapshot.digest, snapshot.files, identities, endpoint, at))


def _names(request: Request, revision: Revision) -> tuple[str, ...]:
    """The reference as it was asked for, and at the commit or digest that it meant."""
    ref = request.locked_ref
    pinned = replace(ref, revision=revision.id) if ref.scheme in WITH_REVISIONS else ref
    return tuple(dict.fromkeys((ref.in_records, pinned.in_records)))
