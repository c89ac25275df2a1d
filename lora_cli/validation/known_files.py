"""The files of an adapter with their digests, as far as these are known without a download."""

from collections.abc import Mapping
from dataclasses import replace

from lora_cli.core.adapter_request import Item
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, snapshot_digest
from lora_cli.fetching.file_selection import Selection
from lora_cli.fetching.locked_files import sha256_from
from lora_cli.fetching.resolution_history import last_snapshot
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.validation.policy_check import files_to_fetch
from lora_cli.validation.validate import ref_of


def known_files(item: Item, revision: Revision, settings: Settings, sources: Sources) -> tuple[RemoteFile, ...]:
    """The files of ``item`` at ``revision`` that a fetch would download, in the order of their paths.

    Their sha256 is that of the lock, the cache or the listing. Files of a local folder are read; of any other origin
    nothing is, so that a file may have none.

    Raises:
        LoraCliError: a local file cannot be read, or changes meanwhile.
    """
    is_local = revision.ref.scheme == "file"
    blobs = {} if is_local else _known_blobs(item, revision, settings)

    def one(file: RemoteFile) -> RemoteFile:
        if (blob := blobs.get(file.path)) is not None:
            return replace(file, sha256=blob.sha256, size=blob.size)
        if is_local and not file.defect:
            return replace(file, sha256=sha256_from(sources.of(revision.ref), revision, file))
        return file

    return tuple(one(file) for file in sorted(files_to_fetch(revision), key=lambda file: file.path))


def known_digest(files: tuple[RemoteFile, ...]) -> str:
    """The snapshot digest of ``files``; "" if there are none, or size or sha256 of one is unknown."""
    blobs = [(file.path, Blob(file.sha256, file.size)) for file in files if file.sha256 and file.size is not None]
    return snapshot_digest(blobs) if blobs and len(blobs) == len(files) else ""


def _known_blobs(item: Item, revision: Revision, settings: Settings) -> Mapping[str, Blob]:
    """The blobs that the lock or the cache has for the files at ``revision``."""
    if item.locked is not None:
        return item.locked.files
    if not settings.cache_dir.is_dir():
        return {}
    known = last_snapshot(Store(settings.cache_dir), ref_of(item.source), Selection(latest=item.latest), settings)
    return known[0].files if known is not None and known[0].revision == revision.id else {}
