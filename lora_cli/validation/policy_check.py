"""Check digest, lock and policies of an adapter that is validated in place.

Its snapshot digest is the one that it would have after a fetch.
"""

from collections.abc import Iterable

from lora_cli.core.adapter_files import LARGEST_SIGNATURE, SIGNATURE
from lora_cli.core.request import USUAL, Request, Selection
from lora_cli.core.snapshot import Blob, RemoteFile
from lora_cli.documents.policy_checks import format_of
from lora_cli.errors import LoraCliError, Refused
from lora_cli.fetching import gate
from lora_cli.fetching.file_selection import select_files
from lora_cli.fetching.locked_files import select_locked
from lora_cli.fetching.signatures import Contents, check_signatures
from lora_cli.reading.byte_ranges import read_beginning
from lora_cli.settings import Settings
from lora_cli.sources.files import Files

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
    ref, planned, required = files.ref, files_to_fetch(files), gate.signatures_for(files.ref, settings)
    gate.refuse(item, settings, ref, planned)
    if item.locked is not None:
        select_locked(files.revision, item.locked, USUAL, planned)
    if item.sha256 is None and item.locked is None and not required:
        return ()
    # What an origin lists may be the signed files, and what it sends others.
    blobs = blobs_of(files, planned) if files.on_disk or not required else None
    if blobs is None and (required or (item.sha256 is not None and settings.policies)):
        hint = "fetch it first: lora-cli fetch verifies it, and validate then reads the cached files"
        why = "policy require_signature: " if required else ""
        raise Refused(f"{ref}: {why}its digest is unknown before it is fetched", hint=hint)
    if blobs is None:
        return ()
    gate.check_promised(item, blobs, ref)
    if not required:
        return ()
    file = files.file(SIGNATURE)
    signature = read_beginning(files, file, LARGEST_SIGNATURE) if file is not None else None
    contents = Contents(blobs, signature, files.directory, item.signature)
    return check_signatures(ref, required, contents, EVERYTHING, offline=settings.offline)


def files_to_fetch(files: Files) -> tuple[RemoteFile, ...]:
    """The files that a fetch would download; if it is not an adapter, all files with weights."""
    try:
        return select_files(files.revision, EVERYTHING)
    except LoraCliError:
        return tuple(file for file in files if format_of(file.path) and not file.defect)


def blobs_of(files: Files, some: Iterable[RemoteFile]) -> dict[str, Blob] | None:
    """The digest and size of each of ``some`` files; None if one is not known."""
    blobs = {file.path: files.blob(file) for file in some}
    return {path: blob for path, blob in blobs.items() if blob is not None} if None not in blobs.values() else None
