"""Check digest, lock and policies of an adapter that is validated in place.

Its snapshot digest is the one that it would have after a fetch.
"""

from pathlib import Path

from lora_cli.core.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.core.request import USUAL, Request, Selection
from lora_cli.core.snapshot import Blob, RemoteFile, Revision
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import LoraCliError, Refused
from lora_cli.fetching import gate
from lora_cli.fetching.cached_source import CacheFirstSource
from lora_cli.fetching.file_selection import select_files
from lora_cli.fetching.locked_files import select_locked, sha256_from
from lora_cli.fetching.signatures import Contents, check_signatures
from lora_cli.reading.byte_ranges import read_beginning
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_on_disk

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
    ref, files, required = revision.ref, files_to_fetch(revision), gate.signatures_for(revision.ref, settings)
    gate.refuse(item, settings, ref, files)
    if item.locked is not None:
        select_locked(revision, item.locked, USUAL, files)
    if item.sha256 is None and item.locked is None and not required:
        return ()
    # What an origin lists may be the signed files, and what it sends others.
    blobs = blobs_of(revision, files, source) if is_on_disk(source, revision) or not required else None
    if blobs is None and (required or (item.sha256 is not None and settings.policies)):
        hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
        why = "policy require_signature: " if required else ""
        raise Refused(f"{ref}: {why}its digest is unknown before it is fetched", hint=hint)
    if blobs is None:
        return ()
    gate.check_promised(item, blobs, ref)
    if not required:
        return ()
    file = revision.file(SIGNATURE)
    signature = read_beginning(source, revision, file, LARGEST_SIGNATURE) if file is not None else None
    cached = source.snapshot(revision) if isinstance(source, CacheFirstSource) else None
    folder = Path(ref.location) if ref.scheme == "file" else cached.directory if cached is not None else None
    contents = Contents(blobs, signature, folder, item.signature)
    return check_signatures(ref, required, contents, EVERYTHING, offline=settings.offline)


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
