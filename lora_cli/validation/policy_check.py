"""Check digest, lock and policies of an adapter that is validated in place.

Its snapshot digest is the one that it would have after a fetch.
"""

from dataclasses import replace
from pathlib import Path

from lora_cli.core.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.core.request import USUAL, Request, Selection
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, snapshot_digest
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import LoraCliError, Refused
from lora_cli.fetching.cached_source import CacheFirstSource
from lora_cli.fetching.file_selection import select_files
from lora_cli.fetching.locked_files import check_folder, lock_mismatch, select_locked, sha256_from
from lora_cli.fetching.reference_names import entries_for
from lora_cli.fetching.requirements import (
    check_allowed,
    check_digest,
)
from lora_cli.fetching.signatures import Contents, check_signatures
from lora_cli.reading.byte_ranges import read_beginning
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_on_disk
from lora_cli.store import Store

EVERYTHING = Selection(allow_pickle=True)


def check_contents(item: Request, revision: Revision, source: Source, settings: Settings) -> tuple[str, ...]:
    """The signers that policies require of ``item`` at ``revision``, whose digest and lock must match.

    A lock is compared with the bytes that are on this disk, else with the listing. A digest that is unknown before a
    fetch is only an error if a policy needs it.

    Raises:
        Refused: a policy denies it, or needs a digest that is unknown before a fetch; or it differs from the lock.
        Corrupt: its digest differs from the manifest's.
        LoraCliError: what the source raises.
    """
    item = replace(item, source=revision.ref)
    signers: tuple[str, ...] = ()
    if settings.policies:
        signers = _check_policies(item, revision, source, settings)
    elif item.locked is None:
        files = _planned(revision)
        blobs = blobs_of(revision, files, source) if files is not None else None
        if blobs is not None:
            check_digest(item, snapshot_digest(blobs.items()))
    if item.locked is not None and revision.ref.scheme == "file":
        check_folder(Store(settings.cache_dir), revision, files_to_fetch(revision), item.locked, source)
    elif item.locked is not None:
        select_locked(revision, item.locked, USUAL, files_to_fetch(revision))
        cached = source.snapshot(revision) if isinstance(source, CacheFirstSource) else None
        for path, blob in cached.files.items() if cached is not None else ():
            if item.locked.files.get(path) != blob:
                raise lock_mismatch(item.locked, f"{path} has different bytes from the locked ones")
    return signers


def _check_policies(item: Request, revision: Revision, source: Source, settings: Settings) -> tuple[str, ...]:
    """Checks what policies say of an adapter; gives the signers that they require."""
    ref, files = revision.ref, files_to_fetch(revision)
    check_allowed(item, settings, files=files)
    must_be_signed = bool(entries_for(ref, settings))
    if not must_be_signed and item.sha256 is None:
        return ()
    # What an origin lists may be the signed files, and what it sends others.
    is_known = is_on_disk(source, revision) or not must_be_signed
    blobs = blobs_of(revision, files, source) if is_known else None
    if blobs is None:
        hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
        why = "policy require_signature: " if must_be_signed else ""
        raise Refused(f"{ref}: {why}its digest is unknown before it is fetched", hint=hint)
    check_digest(item, snapshot_digest(blobs.items()))
    file = revision.file(SIGNATURE)
    signature = read_beginning(source, revision, file, LARGEST_SIGNATURE) if file is not None else None
    cached = source.snapshot(revision) if isinstance(source, CacheFirstSource) else None
    folder = Path(ref.location) if ref.scheme == "file" else cached.directory if cached is not None else None
    contents = Contents(blobs, signature, folder, item.signature)
    return check_signatures(ref, contents, settings, EVERYTHING)


def files_to_fetch(revision: Revision) -> tuple[RemoteFile, ...]:
    """The files that a fetch would download; if it is not an adapter, all files with weights."""
    files = _planned(revision)
    if files is None:
        return tuple(file for file in revision.files if format_of(file.path) and not file.defect)
    return files


def _planned(revision: Revision) -> tuple[RemoteFile, ...] | None:
    """The files that a fetch would download, None if it is not an adapter."""
    try:
        return select_files(revision, EVERYTHING)
    except LoraCliError:
        return None


def blobs_of(revision: Revision, files: tuple[RemoteFile, ...], source: Source) -> dict[str, Blob] | None:
    """The digest and size of each of ``files``, as listed, cached or read from this disk; None if one is unknown."""
    cached = source.snapshot(revision) if isinstance(source, CacheFirstSource) else None
    blobs = {}
    for file in files:
        if file.sha256 is not None and file.size is not None:
            blobs[file.path] = Blob(file.sha256, file.size)
        elif cached is not None and file.path in cached.files:
            blobs[file.path] = cached.files[file.path]
        elif is_on_disk(source, revision) and file.size is not None:
            blobs[file.path] = Blob(sha256_from(source, revision, file), file.size)
        else:
            return None
    return blobs
