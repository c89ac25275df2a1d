"""Records of earlier fetches, by which unchanged files are recognised and not fetched again."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lora_cli.core.lock import LockedAdapter
from lora_cli.core.reference import WITH_REVISIONS, AdapterRef
from lora_cli.core.request import Selection
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, Snapshot
from lora_cli.errors import Offline
from lora_cli.fetching.file_selection import identity
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of, endpoints_of
from lora_cli.store import Store
from lora_cli.store.resolution_records import Record, all_records, read_record, write_record
from lora_cli.store.snapshots import find_snapshot

_IN_MANIFEST = "endpoint_url in the manifest's sources"
_OTHER_ENDPOINT = {
    "hf": f"HF_ENDPOINT, or {_IN_MANIFEST}",
    "s3": f"AWS_ENDPOINT_URL, or {_IN_MANIFEST}",
    "gs": f"STORAGE_EMULATOR_HOST, or {_IN_MANIFEST}",
    "az": f"AZURE_STORAGE_ENDPOINT, or {_IN_MANIFEST}",
}


@dataclass(frozen=True)
class FetchPlan:
    """One resolved reference with its selected files; ``endpoint`` is the server that was asked, "" for none.

    ``ref`` is the requested reference; that of ``revision`` differs where it is the folder of a checkpoint.
    """

    ref: AdapterRef
    revision: Revision
    files: tuple[RemoteFile, ...]
    selection: Selection
    endpoint: str = ""

    @property
    def key(self) -> str:
        """The key of the lock: the same for all who fetch the same files of the same revision at the same endpoint."""
        ref = self.revision.ref
        parts = (ref.scheme, ref.location, ref.subfolder, self.revision.id, str(self.selection), self.endpoint)
        text = "\n".join(parts)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Reference and selection of each record: as requested and as the folder, each as it is and at the commit."""
        folder = (self.revision.ref, replace(self.selection, latest=False))
        pairs = ((self.ref, self.selection), folder)
        both = ((one, str(selection)) for ref, selection in pairs for one in (ref, self._pinned(ref)))
        names = ((one.in_records, selection) for one, selection in both)
        return tuple(dict.fromkeys(names))

    def blobs_of(self, record: Record, files: Sequence[RemoteFile]) -> dict[str, Blob]:
        """Path → blob of those ``files`` that are unchanged since the record."""
        found = ((file.path, recorded_blob(record, self.revision, file)) for file in files)
        return {path: blob for path, blob in found if blob is not None}

    def _pinned(self, ref: AdapterRef) -> AdapterRef:
        return replace(ref, revision=self.revision.id) if ref.scheme in WITH_REVISIONS else ref


def read_records(store: Store, plan: FetchPlan) -> tuple[Record, ...]:
    """The records of earlier fetches under each name of the plan."""
    found = (read_record(store, name, selection, plan.endpoint) for name, selection in plan.names)
    return tuple(record for record in found if record is not None)


def recorded_snapshot(store: Store, plan: FetchPlan, records: Sequence[Record]) -> Snapshot | None:
    """The cached snapshot of the plan's files, by a record or by their listed digests.

    A digest in the listing or the lock always takes precedence over a record.
    """
    for record in records:
        blobs = plan.blobs_of(record, plan.files)
        if len(blobs) == len(plan.files) == len(record.files):
            found = find_snapshot(store, blobs)
            if found is not None:
                return found
    blobs = {file.path: Blob(file.sha256, file.size) for file in plan.files if file.sha256 and file.size is not None}
    return find_snapshot(store, blobs) if len(blobs) == len(plan.files) else None


def known_blobs(plan: FetchPlan, records: Sequence[Record]) -> Mapping[str, Blob]:
    """Path → blob of the files that are unchanged since an earlier fetch, whether they are cached or not."""
    blobs: dict[str, Blob] = {}
    for record in records:
        blobs |= plan.blobs_of(record, [file for file in plan.files if identity(plan.revision, file)])
    return blobs


def write_records(store: Store, plan: FetchPlan, snapshot: Snapshot) -> None:
    """Records under each name of the plan that the revision is this snapshot. A read-only cache stays as it is.

    Raises:
        MachineError: the disk is full, or another disk error.
    """
    # The identities as the origin lists them: a lock may have added digests.
    files = (plan.revision.file(file.path) or file for file in plan.files)
    identities = {file.path: identity(plan.revision, file) for file in files}
    for name, selection in plan.names:
        record = Record(
            name,
            selection,
            plan.revision.id,
            snapshot.digest,
            snapshot.files,
            identities,
            endpoint=plan.endpoint,
            folder=plan.revision.ref.subfolder if plan.revision.ref.scheme == "oci" else "",
        )
        write_record(store, record)


def last_snapshot(
    store: Store, ref: AdapterRef, selection: Selection, settings: Settings
) -> tuple[Record, Snapshot] | None:
    """Record and snapshot of the last fetch of ``ref`` from the endpoint in ``settings``, if it is still cached."""
    for endpoint in endpoints_of(ref, settings):
        record = read_record(store, ref.in_records, str(selection), endpoint)
        if record is not None and (found := find_snapshot(store, record.files)) is not None:
            return record, found
    return None


def not_cached_error(store: Store, ref: AdapterRef, settings: Settings, hint: str = "fetch it online first") -> Offline:
    """The error in offline mode for what is not cached; it names other servers from which ``ref`` was fetched.

    Those snapshots are not used: two servers may mean different things by one reference.
    """
    endpoint = endpoint_of(ref, settings)
    known = [record for record in all_records(store) if record.ref == ref.in_records]
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


def recorded_folder(
    store: Store, ref: AdapterRef, selection: Selection, locked: LockedAdapter | None, settings: Settings
) -> str | None:
    """The folder that policies are asked about: ``picked_folder``, which costs nothing without policies."""
    return picked_folder(store, ref, selection, locked, settings) if settings.policies else ref.subfolder


def picked_folder(
    store: Store, ref: AdapterRef, selection: Selection, locked: LockedAdapter | None, settings: Settings
) -> str | None:
    """The folder of an artifact that ``ref`` meant at the last fetch; its own if it has one.

    None if it is unknown: the files of a lock may be cached from another reference.
    """
    if ref.scheme != "oci" or ref.subfolder:
        return ref.subfolder
    selections = [selection] if locked is None else [selection, replace(selection, locked=locked.digest)]
    records = (read_record(store, ref.in_records, str(one), endpoint_of(ref, settings)) for one in selections)
    folder = next((one.folder for one in records if one is not None), None)
    if folder is None and locked is not None:
        # A digest has one such folder, under whatever name and with whatever files it was fetched.
        known = (one for one in all_records(store) if one.revision == locked.revision and one.folder is not None)
        return next((one.folder for one in known if re.fullmatch(r"oci://(?:(?!//).)*", one.ref)), None)
    return folder


def recorded_blob(record: Record, revision: Revision, file: RemoteFile) -> Blob | None:
    """The blob that a record has for a file, if the file is unchanged.

    It is unchanged if it has the sha256 of the listing or lock; else if it has the same identity (a git blob id, an
    ETag with the size); else, where the listing has no identity, if the revision is the same.
    """
    blob = record.files.get(file.path)
    if blob is None or file.size not in {None, blob.size}:
        return None
    if file.sha256:
        return blob if blob.sha256 == file.sha256 else None
    if listed := identity(revision, file):
        return blob if record.identities.get(file.path) == listed else None
    return blob if record.revision == revision.id else None
