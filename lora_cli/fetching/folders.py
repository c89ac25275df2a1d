"""A folder of this machine beside its lock. It has no commit to stay at: whoever uses it compares its bytes."""

import hashlib
from collections.abc import Container, Sequence
from dataclasses import replace

from lora_cli.core.lock import LockedAdapter
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.documents.policy_checks import format_of
from lora_cli.fetching.locked import at_lock, moved
from lora_cli.fetching.memory import Asked, known_blobs, recorded
from lora_cli.fetching.plan import USUAL, Selection
from lora_cli.sources import Source
from lora_cli.store import Store


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
    files, selection = at_lock(revision, locked, selection, planned)
    check_bytes(store, Asked(revision.ref, revision, files, selection), locked, source, read_later=read_later)
    new = (file.path for file in planned if file.path not in locked.files and format_of(file.path))
    if not selection.chosen and (path := next(new, None)) is not None:
        raise moved(locked, f"{path} is there now, and is not locked")


def check_bytes(
    store: Store, asked: Asked, locked: LockedAdapter, source: Source, *, read_later: Container[str] = ()
) -> None:
    """The second half of ``check_folder``: whether the files have the locked bytes. Raises ``Refused``."""
    # As the folder has them: what the lock tells more of a file is what is to be proved.
    own = [file for file in map(asked.revision.file, (file.path for file in asked.files)) if file is not None]
    listed = replace(asked, files=own)
    known = known_blobs(listed, recorded(store, listed))
    for file in own:
        blob = locked.files.get(file.path)
        if blob is None or file.path in read_later:
            continue
        found = known[file.path].sha256 if file.path in known else _sha256(asked.revision, file, source)
        if found != blob.sha256:
            raise moved(locked, f"{file.path} has other bytes now than those that are locked")


def _sha256(revision: Revision, file: RemoteFile, source: Source) -> str:
    hasher = hashlib.sha256()
    for chunk in source.read(revision, file, 0, None):
        hasher.update(chunk)
    return hasher.hexdigest()
