"""The snapshot digest of an adapter that is judged where it lies: what it would have once it is fetched."""

import hashlib

from lora_cli.core.snapshot import Blob, RemoteFile, Revision, snapshot_digest
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import LoraCliError
from lora_cli.fetching.plan import Selection, plan
from lora_cli.sources import Source

EVERYTHING = Selection(allow_pickle=True)


def wanted(revision: Revision) -> tuple[RemoteFile, ...]:
    """What a fetch would take; of what is no adapter, everything that looks like weights."""
    try:
        return plan(revision, EVERYTHING)
    except LoraCliError:
        return tuple(file for file in revision.files if format_of(file.path) and not file.defect)


def digest_in_place(revision: Revision, source: Source, *, here: bool) -> str | None:
    """As ``digest_of``, of the files that a fetch would take; None of what no fetch takes."""
    try:
        files = plan(revision, EVERYTHING)
    except LoraCliError:
        return None
    return digest_of(revision, files, source, here=here)


def digest_of(revision: Revision, files: tuple[RemoteFile, ...], source: Source, *, here: bool) -> str | None:
    """The snapshot digest that ``files`` make: as listed, else read where they are on this disk; else None."""
    blobs = {}
    for file in files:
        if file.sha256 is not None and file.size is not None:
            blobs[file.path] = Blob(file.sha256, file.size)
        elif here:
            blobs[file.path] = _read(revision, file, source)
        else:
            return None
    return snapshot_digest(blobs.items())


def _read(revision: Revision, file: RemoteFile, source: Source) -> Blob:
    hasher, size = hashlib.sha256(), 0
    for chunk in source.read(revision, file, 0, None):
        hasher.update(chunk)
        size += len(chunk)
    return Blob(hasher.hexdigest(), size)
