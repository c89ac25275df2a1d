"""A lock's word on one adapter: which files, and that no other bytes will do.

A folder of this machine has no commit to stay at: the caller compares its bytes.
"""

import hashlib
import shlex
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import replace

from lora_cli.core.lock import LockedAdapter, upgrade_of
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision, Snapshot
from lora_cli.errors import Offline, Refused
from lora_cli.fetching.file_selection import USUAL, Selection, check_sound
from lora_cli.fetching.resolution_history import Asked, known_blobs, recorded
from lora_cli.sources import Source
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob, has_blob
from lora_cli.store.resolution_records import Record, mark_used, read_record, write_record
from lora_cli.store.snapshots import find_snapshot, publish_snapshot

ONLINE = "fetch it once with network access"


def held(store: Store, ref: AdapterRef, endpoint: str, locked: LockedAdapter, selection: Selection) -> Snapshot | None:
    """The snapshot of the locked files, when all of their bytes are here, whatever they were fetched as.

    That it is used is noted under ``selection``, or under that of the lock, as it was before or from now on.

    Raises:
        MachineError: this machine does not let us.
    """
    found = find_snapshot(store, locked.files)
    if found is None and all(has_blob(store, blob) for blob in locked.files.values()):
        with suppress(LostBlob):
            found = publish_snapshot(store, locked.files)
    if found is None:
        return None
    usual, own = str(selection), str(replace(selection, locked=locked.digest))
    records = (read_record(store, str(ref), text, endpoint) for text in (usual, own))
    record = next((one for one in records if one is not None and one.snapshot == found.digest), None)
    if record is not None:
        mark_used(store, record)
    else:
        write_record(store, Record(str(ref), own, locked.revision, found.digest, found.files, endpoint=endpoint))
    return found


def at_lock(
    revision: Revision, locked: LockedAdapter, selection: Selection, planned: Sequence[RemoteFile]
) -> tuple[tuple[RemoteFile, ...], Selection]:
    """The files to fetch, each with the digest that the lock has for it, and the selection that they make.

    They are the locked ones; with ``--include`` those that it selects, unless the lock contradicts.

    Raises:
        Refused: the origin says itself that it has something else than is locked.
        Offline: it was not asked, and what is known of it here is not all that is locked.
        FormatError: a file can never be read.
    """
    usual = [file.path for file in planned]
    paths = usual if selection.chosen else sorted(locked.files)
    files = tuple(_agreed(revision, path, locked) for path in paths)
    check_sound(revision, files)
    return files, selection if paths == usual else replace(selection, locked=locked.digest)


def _agreed(revision: Revision, path: str, locked: LockedAdapter) -> RemoteFile:
    file, blob = revision.file(path), locked.files.get(path)
    if file is None and not revision.whole:
        raise Offline(f"{locked.name}: {path} is not cached and offline mode is on", hint=ONLINE)
    if file is None:
        raise moved(locked, f"{path} is locked but no longer exists")
    if blob is None:
        return file
    if file.size not in {None, blob.size}:
        raise moved(locked, f"{path} has {file.size} bytes now, but is locked with {blob.size}")
    if file.sha256 not in {None, blob.sha256}:
        raise moved(locked, f"{path} is {file.sha256} now, but is locked as {blob.sha256}")
    return replace(file, size=blob.size, sha256=blob.sha256)


def moved(locked: LockedAdapter, what: str) -> Refused:
    """The refusal of an origin that has something else than is locked, and how that is locked instead."""
    return Refused(f"{locked.name}: {what}", hint=upgrade_hint(locked))


def upgrade_hint(locked: LockedAdapter) -> str:
    """What to do when an origin has other bytes than are locked."""
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
    """Whether a folder is what is locked: its weights by name, and every locked file by size and bytes.

    ``planned`` is what a fetch of ``selection`` would take of ``revision``. What was fetched and has not changed since
    is not read, and neither is what is ``read_later``. Nothing is written.

    Raises:
        Refused: something else is locked.
        FormatError: a file can never be read.
    """
    from lora_cli.documents.policy_checks import format_of

    files, selection = at_lock(revision, locked, selection, planned)
    check_bytes(store, Asked(revision.ref, revision, files, selection), locked, source, read_later=read_later)
    new = (file.path for file in planned if file.path not in locked.files and format_of(file.path))
    if not selection.chosen and (path := next(new, None)) is not None:
        raise moved(locked, f"{path} exists now but is not locked")


def check_bytes(
    store: Store, asked: Asked, locked: LockedAdapter, source: Source, *, read_later: Container[str] = ()
) -> None:
    """The second half of ``check_folder``: whether the files have the locked bytes. Raises ``Refused``."""
    # As the folder has them: what the lock tells more of a file is what is to be proved.
    own = tuple(file for listed in asked.files if (file := asked.revision.file(listed.path)) is not None)
    asked = replace(asked, files=own)
    known = known_blobs(asked, recorded(store, asked))
    for file in own:
        blob = locked.files.get(file.path)
        if blob is None or file.path in read_later:
            continue
        found = known[file.path].sha256 if file.path in known else sha256_from(source, asked.revision, file)
        if found != blob.sha256:
            raise moved(locked, f"{file.path} has different bytes from the locked ones")


def sha256_from(source: Source, revision: Revision, file: RemoteFile, stop: int | None = None) -> str:
    """The sha256 of a file's bytes as its origin has them now; of its first ones up to ``stop``."""
    hasher = hashlib.sha256()
    for chunk in source.read(revision, file, 0, stop):
        hasher.update(chunk)
    return hasher.hexdigest()
