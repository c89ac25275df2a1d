"""Locked adapters: the files of the lock are selected, with its sizes and digests."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from lora_cli.core.lock import LockedAdapter, upgrade_of
from lora_cli.core.request import Selection
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import Offline, Refused
from lora_cli.fetching.file_selection import check_readable


def select_locked(
    revision: Revision, locked: LockedAdapter, selection: Selection, planned: Sequence[RemoteFile]
) -> tuple[tuple[RemoteFile, ...], Selection]:
    """The files to fetch, with size and digest of the lock, and the selection that they are.

    These are the locked files; with ``--include`` the ``planned`` ones. Those of a local folder keep what the folder
    says of them: they are read, and compared with the lock.

    Raises:
        Refused: the listing of the origin differs from the lock.
        Offline: the revision is not listed completely, and lacks a locked file.
        FormatError: a file can never be read.
    """
    usual = [file.path for file in planned]
    paths, local = usual if selection.include else sorted(locked.files), revision.ref.scheme == "file"
    files = []
    for path in paths:
        file, blob = revision.file(path), locked.files.get(path)
        if file is None and not revision.whole:
            hint = "fetch it once with network access"
            raise Offline(f"{locked.name}: {path} is not cached and offline mode is on", hint=hint)
        if file is None:
            raise lock_mismatch(locked, f"{path} is locked but no longer exists")
        if blob is not None and file.size not in {None, blob.size}:
            raise lock_mismatch(locked, f"{path} has {file.size} bytes now, but is locked with {blob.size}")
        if blob is not None and file.sha256 not in {None, blob.sha256}:
            raise lock_mismatch(locked, f"{path} is {file.sha256} now, but is locked as {blob.sha256}")
        files.append(file if blob is None or local else replace(file, size=blob.size, sha256=blob.sha256))
    new = [path for path in usual if path not in locked.files and format_of(path)]
    if local and new and not selection.include:
        raise lock_mismatch(locked, f"{new[0]} exists now but is not locked")
    check_readable(revision, files)
    return tuple(files), selection if paths == usual else replace(selection, locked=locked.digest)


def lock_mismatch(locked: LockedAdapter, what: str) -> Refused:
    """The error for an origin that differs from the lock, and how to update the lock."""
    return Refused(f"{locked.name}: {what}", hint=upgrade_hint(locked))


def upgrade_hint(locked: LockedAdapter) -> str:
    """How to lock the origin's current version."""
    file = shlex.quote(locked.manifest or "MANIFEST")
    return f"lora-cli fetch -f {file} {upgrade_of(locked)} locks the current version, after you checked the changes"
