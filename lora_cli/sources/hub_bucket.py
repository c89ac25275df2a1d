"""Storage buckets of the Hugging Face Hub: folders of files in Xet storage, without versions."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import NotFound, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources.http import Piece, StatusError
from lora_cli.sources.http_json import JSON_CAP
from lora_cli.sources.hub_access import named
from lora_cli.sources.hub_client import HubClient
from lora_cli.sources.hub_listing import XET_HASH, in_order, listed, path_in, size_in

if TYPE_CHECKING:
    from lora_cli.documents.manifest import SourceRule

EMPTY = hashlib.sha256().hexdigest()


class HubBucketSource:
    """The Hub's buckets as a source. A revision is a fingerprint of paths, sizes and Xet hashes.

    A bucket keeps no versions. A file is read by the Xet hash that was listed, so what is written there meanwhile is
    never mixed with it; the hash is compared once all of it has come.
    """

    def __init__(self, settings: Settings, rule: "SourceRule | None" = None) -> None:
        """Opens no connection and reads no token yet; ``rule`` says at which endpoint, and whose token."""
        self._hub = HubClient(settings, rule)

    def resolve(self, ref: AdapterRef) -> Revision:
        """The files below the folder that ``ref`` names, at this moment: one request a page.

        Raises:
            NotFound: there is no such bucket, or nothing below the folder.
            AccessDenied: it is private, or the token is bad.
            Refused: there are over 10 000 entries, or a path that could not be written.
            Unreachable: network or server, after the retries.
        """
        id, folder = named(ref)[1], "".join(ref.location.split("/", 2)[2:])
        url = f"{self._hub.endpoint}/api/buckets/{id}/tree"
        url += f"/{quote(folder, safe='')}" if folder else ""

        def file_of(entry: Any, _: str) -> RemoteFile | None:
            return bucket_file(entry, str(ref), folder)

        hint, query = "name the adapter's folder in the bucket", "recursive=true"
        try:
            _, found = listed(self._hub.http, url, query, str(ref), file_of, hint=hint, page_bytes=JSON_CAP)
        except StatusError as error:
            raise self._hub.explained(error, ref) from error
        files = in_order(found, str(ref))
        if not files:
            where = f"below {folder}/ in the bucket {id}" if folder else f"in the bucket {id}"
            hint = "check the spelling: a folder is named, not a file, and a bucket has no revisions"
            raise NotFound(f"{ref}: there is nothing {where}", hint=hint)
        lines = "".join(f"{file.size} {file.xet_hash} {file.path}\n" for file in files)
        return Revision(ref, hashlib.sha256(lines.encode()).hexdigest(), files)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop`` of the file as it was listed, in chunks of at most 1 MiB.

        Raises:
            NotFound: Xet storage does not have it any more.
            AccessDenied: the token may not read the bucket.
            Unreachable: network or server, after the retries.
        """
        if file.xet_hash is None:
            return
        what = f"{revision.ref}: {file.path}"
        route = f"/api/buckets/{named(revision.ref)[1]}/xet-read-token"
        try:
            yield from self._hub.xet.read(route, file.xet_hash, Piece(start, stop, file.size), what)
        except StatusError as error:
            raise self._hub.explained(error, revision.ref, file.path) from error

    def xet_hash(self, path: Path, what: str) -> str:
        """The Xet hash of a file on this disk."""
        return self._hub.xet.hash_of(path, what)


def bucket_file(entry: Any, what: str, folder: str) -> RemoteFile | None:
    """The file that an entry of a listing is; None for a folder, and for what lies elsewhere.

    Raises:
        Refused: its path could not be written.
        Unreachable: it is no entry, or lacks what a file is read by.
    """
    path = path_in(entry, what, folder)
    if path is None:
        return None
    size, xet_hash = size_in(entry), entry.get("xetHash")
    if size == 0:
        return RemoteFile(path, 0, EMPTY)
    if size is None or not isinstance(xet_hash, str) or not XET_HASH.fullmatch(xet_hash):
        raise Unreachable(f"{what}: the server lists {path} without its size or Xet hash", hint="check HF_ENDPOINT")
    return RemoteFile(path, size, xet_hash=xet_hash)
