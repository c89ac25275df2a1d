"""Check digest, lock and policies of an adapter that is validated in place.

Its snapshot digest is the one that it would have after a fetch.
"""

from collections.abc import Iterable
from dataclasses import replace

from lora_cli.core.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.core.request import USUAL, Request, Selection
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, snapshot_digest
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import LoraCliError, Refused
from lora_cli.fetching.file_selection import select_files
from lora_cli.fetching.locked_files import check_folder, lock_mismatch, select_locked
from lora_cli.fetching.reference_names import entries_for
from lora_cli.fetching.requirements import check_allowed, check_digest
from lora_cli.fetching.signatures import Contents, check_signatures
from lora_cli.reading.byte_ranges import read_beginning
from lora_cli.settings import Settings
from lora_cli.sources.files import Files
from lora_cli.store import Store

EVERYTHING = Selection(allow_pickle=True)


def check_contents(item: Request, files: Files, settings: Settings) -> tuple[str, ...]:
    """The signers that policies require of ``item``, whose digest and lock must match its ``files``.

    A lock is compared with the bytes that are on this disk, else with the listing. A digest that is unknown before a
    fetch is only an error if a policy needs it.

    Raises:
        Refused: a policy denies it, or needs a digest that is unknown before a fetch; or it differs from the lock.
        Corrupt: its digest differs from the manifest's.
        LoraCliError: what the source raises.
    """
    item, planned = replace(item, source=files.ref), files_to_fetch(files.revision)
    check_allowed(item, settings, files=planned)
    signers = _check_digest(item, files, planned, settings)
    if item.locked is not None and files.ref.scheme == "file":
        check_folder(Store(settings.cache_dir), files.revision, planned, item.locked, files.source)
    elif item.locked is not None:
        select_locked(files.revision, item.locked, USUAL, planned)
        for path, blob in files.snapshot.files.items() if files.snapshot is not None else ():
            if item.locked.files.get(path) != blob:
                raise lock_mismatch(item.locked, f"{path} has different bytes from the locked ones")
    return signers


def _check_digest(item: Request, files: Files, planned: tuple[RemoteFile, ...], settings: Settings) -> tuple[str, ...]:
    """Checks the digest that the manifest demands, and the signatures that policies require; gives their signers."""
    must_be_signed = bool(entries_for(item.ref, settings))
    if not must_be_signed and item.sha256 is None:
        return ()
    # What an origin lists may be the signed files, and what it sends others.
    blobs = blobs_of(files, planned) if files.on_disk or not must_be_signed else None
    if blobs is None and settings.policies:
        hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
        why = "policy require_signature: " if must_be_signed else ""
        raise Refused(f"{item.ref}: {why}its digest is unknown before it is fetched", hint=hint)
    if blobs is None:
        return ()
    check_digest(item, snapshot_digest(blobs.items()))
    file = files.file(SIGNATURE) if must_be_signed else None
    signature = read_beginning(files, file, LARGEST_SIGNATURE) if file is not None else None
    return check_signatures(item.ref, Contents(blobs, signature, files.directory, item.signature), settings, EVERYTHING)


def files_to_fetch(revision: Revision) -> tuple[RemoteFile, ...]:
    """The files that a fetch would download; if it is not an adapter, all files with weights."""
    try:
        return select_files(revision, EVERYTHING)
    except LoraCliError:
        return tuple(file for file in revision.files if format_of(file.path) and not file.defect)


def blobs_of(files: Files, planned: Iterable[RemoteFile]) -> dict[str, Blob] | None:
    """The digest and size of each of the ``planned`` files; None if one is unknown."""
    blobs = {}
    for file in planned:
        if (blob := files.blob(file)) is None:
            return None
        blobs[file.path] = blob
    return blobs
