"""What is remembered of earlier fetches, so that the same bytes are not fetched again."""

import hashlib
from collections.abc import Mapping, Sequence

from lora_cli.core.frozen import dataclass, replace
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import Blob, RemoteFile, Revision, Snapshot
from lora_cli.fetch.plan import Selection, identity
from lora_cli.store import Store
from lora_cli.store.records import Record, mark_used, read_record, write_record
from lora_cli.store.snapshots import find_snapshot


@dataclass(frozen=True, slots=True)
class Asked:
    """One resolved reference with the files that are wanted of it; ``origin`` is the endpoint it is from, if any.

    ``ref`` is what was asked for; the revision's own is another one where that is a folder in it.
    """

    ref: AdapterRef
    revision: Revision
    files: Sequence[RemoteFile]
    selection: Selection
    origin: str = ""

    @property
    def key(self) -> str:
        """The same for everybody who wants the same files of the same revision."""
        ref = self.revision.ref
        text = f"{ref.scheme}\n{ref.location}\n{ref.subfolder}\n{self.revision.id}\n{self.selection}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Reference and selection, in each way that means this: as it was asked for, as the folder, at the commit."""
        itself = replace(self.selection, latest=False)
        means = ((self.ref, self.selection), (self.revision.ref, itself))
        names = ((name, str(selection)) for ref, selection in means for name in (str(ref), str(self._pinned(ref))))
        return tuple(dict.fromkeys(names))

    def _pinned(self, ref: AdapterRef) -> AdapterRef:
        return replace(ref, revision=self.revision.id) if ref.scheme == "hf" else ref


def recorded(store: Store, asked: Asked) -> tuple[Record, ...]:
    """What was noted under its names."""
    found = (read_record(store, name, selection) for name, selection in asked.names)
    return tuple(record for record in found if record is not None)


def recall(store: Store, asked: Asked, records: Sequence[Record]) -> Snapshot | None:
    """The snapshot that these files make, when it is here: as a record says, or as their digests do."""
    for record in records:
        same = record.revision == asked.revision.id or len(_known(record, asked)) == len(asked.files)
        if same and record.files.keys() == {file.path for file in asked.files}:
            found = find_snapshot(store, record.files)
            if found is not None:
                return found
    blobs = {file.path: Blob(file.sha256, file.size) for file in asked.files if file.sha256 and file.size is not None}
    return find_snapshot(store, blobs) if len(blobs) == len(asked.files) else None


def known_blobs(asked: Asked, records: Sequence[Record]) -> Mapping[str, Blob]:
    """Path → blob of the files that are the same as when they were fetched before, wherever their bytes are now."""
    blobs: dict[str, Blob] = {}
    for record in records:
        blobs.update(_known(record, asked))
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
            origin=asked.origin,
            # A commit is asked for without a word about access: what was known of it stays known.
            access=asked.revision.access or (before.access if before is not None else ""),
        )
        write_record(store, record, anew=before is None)


def mention(store: Store, ref: str, revision: str, snapshot: Snapshot, selections: Sequence[str]) -> None:
    """Notes that ``ref`` is used as this snapshot, under the first of its ``selections`` that says so, else the last.

    Raises:
        MachineError: the disk is full, or the like.
    """
    for selection in selections:
        record = read_record(store, ref, selection)
        if record is not None and record.snapshot == snapshot.digest:
            mark_used(store, record)
            return
    write_record(store, Record(ref, selections[-1], revision, snapshot.digest, snapshot.files))


def remembered(store: Store, ref: str, selection: Selection) -> tuple[Record, Snapshot] | None:
    """What ``ref`` meant when it was last fetched, when all of it is still here."""
    record = read_record(store, ref, str(selection))
    if record is None or (found := find_snapshot(store, record.files)) is None:
        return None
    mark_used(store, record)
    return record, found


def access_of(store: Store, ref: AdapterRef, selection: Selection) -> str:
    """Who may have what ``ref`` means, as its origin said when it was last fetched; "" when that is not known."""
    record = read_record(store, str(ref), str(selection))
    return record.access if record is not None else ""


def _known(record: Record, asked: Asked) -> dict[str, Blob]:
    """The files whose identity at the origin is the recorded one. Saying nothing is no identity."""
    found = {}
    for file in asked.files:
        said = identity(asked.revision, file)
        if said and file.path in record.files and record.identities.get(file.path) == said:
            found[file.path] = record.files[file.path]
    return found
