"""Locked adapters: the files of the lock are selected, and verified by their digests.

A local folder has no commit that could be fetched again: its bytes are compared.
"""

import hashlib
import shlex
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import replace

from lora_cli.core.lock import LockedAdapter, upgrade_of
from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import USUAL, Selection
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
from lora_cli.errors import Offline, Refused
from lora_cli.fetching.file_selection import check_readable
from lora_cli.fetching.resolution_history import FetchPlan, known_blobs, read_records
from lora_cli.sources import Source
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob, has_blob
from lora_cli.store.resolution_records import Record, mark_used, read_record, write_record
from lora_cli.store.snapshots import find_snapshot, publish_snapshot

ONLINE = "fetch it once with network access"


def locked_snapshot(
    store: Store,
    ref: AdapterRef,
    endpoint: str,
    locked: LockedAdapter,
    selection: Selection,
    check: Callable[[Snapshot], object],
) -> Snapshot | None:
    """The snapshot of the locked files when all of their bytes are cached, from whatever reference.

    ``check`` is called before it is published. Its last use is recorded under ``selection`` where that has a record,
    else under the selection of the lock.

    Raises:
        MachineError: a disk error.
    """
    found = find_snapshot(store, locked.files)
    if found is None and all(has_blob(store, blob) for blob in locked.files.values()):
        with suppress(LostBlob):
            found = publish_snapshot(store, locked.files, check)
    if found is None:
        return None
    # Of a base there is one selection, its config: a lock has no other files of it.
    usual, own = str(selection), str(selection if selection.base else replace(selection, locked=locked.digest))
    records = (read_record(store, ref.in_records, text, endpoint) for text in (usual, own))
    record = next((one for one in records if one is not None and one.snapshot == found.digest), None)
    if record is not None:
        mark_used(store, record)
    else:
        folder = None if ref.scheme == "oci" and not ref.subfolder else ""
        made = Record(ref.in_records, own, locked.revision, found.digest, found.files, endpoint=endpoint, folder=folder)
        write_record(store, made)
    return found


def select_locked(
    revision: Revision, locked: LockedAdapter, selection: Selection, planned: Sequence[RemoteFile]
) -> tuple[tuple[RemoteFile, ...], Selection]:
    """The files to fetch, with size and digest of the lock, and the selection that they are.

    These are the locked files; with ``--include`` the ``planned`` ones.

    Raises:
        Refused: the listing of the origin differs from the lock.
        Offline: the revision is not listed completely, and lacks a locked file.
        FormatError: a file can never be read.
    """
    usual = [file.path for file in planned]
    paths = usual if selection.include else sorted(locked.files)
    files = tuple(_locked_file(revision, path, locked) for path in paths)
    check_readable(revision, files)
    return files, selection if paths == usual else replace(selection, locked=locked.digest)


def _locked_file(revision: Revision, path: str, locked: LockedAdapter) -> RemoteFile:
    file, blob = revision.file(path), locked.files.get(path)
    if file is None and not revision.whole:
        raise Offline(f"{locked.name}: {path} is not cached and offline mode is on", hint=ONLINE)
    if file is None:
        raise lock_mismatch(locked, f"{path} is locked but no longer exists")
    if blob is None:
        return file
    if file.size not in {None, blob.size}:
        raise lock_mismatch(locked, f"{path} has {file.size} bytes now, but is locked with {blob.size}")
    if file.sha256 not in {None, blob.sha256}:
        raise lock_mismatch(locked, f"{path} is {file.sha256} now, but is locked as {blob.sha256}")
    return replace(file, size=blob.size, sha256=blob.sha256)


def lock_mismatch(locked: LockedAdapter, what: str) -> Refused:
    """The error for an origin that differs from the lock, and how to update the lock."""
    return Refused(f"{locked.name}: {what}", hint=upgrade_hint(locked))


def upgrade_hint(locked: LockedAdapter) -> str:
    """How to lock the origin's current version."""
    file = shlex.quote(locked.manifest or "MANIFEST")
    return f"lora-cli fetch -f {file} {upgrade_of(locked)} locks the current version, after you checked the changes"


def check_folder(
    store: Store,
    revision: Revision,
    planned: Sequence[RemoteFile],
    locked: LockedAdapter,
    source: Source,
    selection: Selection = USUAL,
    *,
    read_later: Container[str] = (),
) -> None:
    """Compares a local folder with the lock: its weights by name, and every locked file by size and bytes.

    ``planned`` are the files of ``revision`` that ``selection`` fetches. Files that were fetched and have not changed
    since are not read again, and neither are those that are ``read_later``. Nothing is written.

    Raises:
        Refused: the folder differs from the lock.
        FormatError: a file can never be read.
    """
    from lora_cli.documents.policy_checks import format_of

    files, selection = select_locked(revision, locked, selection, planned)
    check_bytes(store, FetchPlan(revision.ref, revision, files, selection), locked, source, read_later=read_later)
    new = (file.path for file in planned if file.path not in locked.files and format_of(file.path))
    if not selection.include and (path := next(new, None)) is not None:
        raise lock_mismatch(locked, f"{path} exists now but is not locked")


def check_bytes(
    store: Store, plan: FetchPlan, locked: LockedAdapter, source: Source, *, read_later: Container[str] = ()
) -> None:
    """Compares the bytes of a folder's files with the lock; see ``check_folder``.

    Raises:
        Refused: they differ.
    """
    # The files as the folder lists them: the digests of the lock are what is checked.
    own = tuple(file for listed in plan.files if (file := plan.revision.file(listed.path)) is not None)
    plan = replace(plan, files=own)
    known = known_blobs(plan, read_records(store, plan))
    for file in own:
        blob = locked.files.get(file.path)
        if blob is None or file.path in read_later:
            continue
        found = known[file.path].sha256 if file.path in known else sha256_from(source, plan.revision, file)
        if found != blob.sha256:
            raise lock_mismatch(locked, f"{file.path} has different bytes from the locked ones")


def sha256_from(source: Source, revision: Revision, file: RemoteFile, stop: int | None = None) -> str:
    """The sha256 of a file's bytes as its origin has them now, up to ``stop`` (None: all)."""
    hasher = hashlib.sha256()
    for chunk in source.read(revision, file, 0, stop):
        hasher.update(chunk)
    return hasher.hexdigest()
