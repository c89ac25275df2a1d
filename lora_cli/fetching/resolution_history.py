"""What is remembered of earlier fetches, so that the same bytes are not fetched again."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, Snapshot
from lora_cli.errors import Offline
from lora_cli.fetching.file_selection import Selection, identity
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of, endpoints_of
from lora_cli.store import Store
from lora_cli.store.resolution_records import Record, all_records, read_record, write_record
from lora_cli.store.snapshots import find_snapshot

_IN_MANIFEST = "endpoint_url in the manifest's sources"
_OTHER_ENDPOINT = {
    "hf": f"HF_ENDPOINT, or {_IN_MANIFEST}",
    "hf-bucket": f"HF_ENDPOINT, or {_IN_MANIFEST}",
    "s3": f"AWS_ENDPOINT_URL, or {_IN_MANIFEST}",
    "gs": f"STORAGE_EMULATOR_HOST, or {_IN_MANIFEST}",
    "az": f"AZURE_STORAGE_ENDPOINT, or {_IN_MANIFEST}",
}


@dataclass(frozen=True)
class Asked:
    """One resolved reference with the files that are wanted of it; ``endpoint`` is the server that was asked, if any.

    ``ref`` is what was asked for; the revision's own is another one where that is a folder in it.
    """

    ref: AdapterRef
    revision: Revision
    files: tuple[RemoteFile, ...]
    selection: Selection
    endpoint: str = ""

    @property
    def key(self) -> str:
        """The same for everybody who wants the same files of the same revision at the same endpoint."""
        ref = self.revision.ref
        what = f"{ref.scheme}\n{ref.location}\n{ref.subfolder}\n{self.revision.id}\n{self.selection}"
        text = f"{what}\n{self.endpoint}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Reference and selection, in each way that means this: as it was asked for, as the folder, at the commit."""
        itself = replace(self.selection, latest=False)
        means = ((self.ref, self.selection), (self.revision.ref, itself))
        names = ((name, str(selection)) for ref, selection in means for name in (str(ref), str(self._pinned(ref))))
        return tuple(dict.fromkeys(names))

    def blobs_of(self, record: Record, files: Sequence[RemoteFile]) -> dict[str, Blob]:
        """Path → blob of those ``files`` that a record still has as they are now."""
        found = ((file.path, recorded_blob(record, self.revision, file)) for file in files)
        return {path: blob for path, blob in found if blob is not None}

    def _pinned(self, ref: AdapterRef) -> AdapterRef:
        return replace(ref, revision=self.revision.id) if ref.scheme == "hf" else ref


def recorded(store: Store, asked: Asked) -> tuple[Record, ...]:
    """What was noted under its names, when its endpoint was asked before."""
    found = (read_record(store, name, selection, asked.endpoint) for name, selection in asked.names)
    return tuple(record for record in found if record is not None)


def recall(store: Store, asked: Asked, records: Sequence[Record]) -> Snapshot | None:
    """The snapshot that these files make, when it is here: as a record says, or as their digests do.

    A digest that the listing or a lock has for a file always counts more than what a record remembers.
    """
    for record in records:
        blobs = asked.blobs_of(record, asked.files)
        if len(blobs) == len(asked.files) == len(record.files):
            found = find_snapshot(store, blobs)
            if found is not None:
                return found
    blobs = {file.path: Blob(file.sha256, file.size) for file in asked.files if file.sha256 and file.size is not None}
    return find_snapshot(store, blobs) if len(blobs) == len(asked.files) else None


def known_blobs(asked: Asked, records: Sequence[Record]) -> Mapping[str, Blob]:
    """Path → blob of the files that are the same as when they were fetched before, wherever their bytes are now."""
    blobs: dict[str, Blob] = {}
    for record in records:
        blobs |= asked.blobs_of(record, [file for file in asked.files if identity(asked.revision, file)])
    return blobs


def remember(store: Store, asked: Asked, snapshot: Snapshot, records: Sequence[Record]) -> None:
    """Notes under each of its names that the revision is this snapshot. A read-only cache stays as it is.

    ``records`` are what was noted before.

    Raises:
        MachineError: the disk is full, or the like.
    """
    # What the origin itself says: a lock may have told more of a file.
    files = (asked.revision.file(file.path) or file for file in asked.files)
    identities = {file.path: identity(asked.revision, file) for file in files}
    noted = {(record.ref, record.selection): record for record in records}
    for name, selection in asked.names:
        before = noted.get((name, selection))
        record = Record(
            name,
            selection,
            asked.revision.id,
            snapshot.digest,
            snapshot.files,
            identities,
            endpoint=asked.endpoint,
            # A commit is asked for without a word about access: what was known of it stays known.
            access=asked.revision.access or (before.access if before is not None else ""),
        )
        write_record(store, record)


def remembered(
    store: Store, ref: AdapterRef, selection: Selection, settings: Settings
) -> tuple[Record, Snapshot] | None:
    """What ``ref`` meant when it was last fetched from where ``settings`` has it, when all of it is still here."""
    for endpoint in endpoints_of(ref, settings):
        record = read_record(store, str(ref), str(selection), endpoint)
        if record is not None and (found := find_snapshot(store, record.files)) is not None:
            return record, found
    return None


def not_cached(store: Store, ref: AdapterRef, settings: Settings, hint: str = "fetch it online first") -> Offline:
    """The error for what is not in the cache while the network is off; it names other servers that it was fetched from.

    What they said of it is not used: two servers may mean two things by one reference.
    """
    endpoint = endpoint_of(ref, settings)
    known = [record for record in all_records(store) if record.ref == str(ref)]
    others = {record.endpoint for record in known} - {"", endpoint}
    if any(record.endpoint not in others and find_snapshot(store, record.files) is None for record in known):
        hint = (
            f"its cached files are missing or corrupt; lora-cli cache verify --repair restores them online; or {hint}"
        )
    if not others:
        return Offline(f"{ref} is not cached and offline mode is on", hint=hint)
    return Offline(
        f"{ref} is not cached from {endpoint}, only from {', '.join(sorted(others)[:3])}, and offline mode is on",
        hint=f"fetch it online first, or use the other server: {_OTHER_ENDPOINT.get(ref.scheme, _IN_MANIFEST)}",
    )


def access_of(store: Store, ref: AdapterRef, selection: Selection, settings: Settings) -> str:
    """Who may have what ``ref`` means, as its endpoint said when it was last fetched; "" when that is not known."""
    record = read_record(store, str(ref), str(selection), endpoint_of(ref, settings))
    return record.access if record is not None else ""


def recorded_blob(record: Record, revision: Revision, file: RemoteFile) -> Blob | None:
    """The blob that a record has for a file, when that is still what is asked for.

    It is, in this order: when it has the sha256 that the listing or a lock says; when it had the same identity (a git
    blob id, an ETag with its size); and where the listing says nothing of the file, when the revision is the same.
    """
    blob = record.files.get(file.path)
    if blob is None or file.size not in {None, blob.size}:
        return None
    if file.sha256:
        return blob if blob.sha256 == file.sha256 else None
    if said := identity(revision, file):
        return blob if record.identities.get(file.path) == said else None
    return blob if record.revision == revision.id else None
