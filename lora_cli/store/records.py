"""Records of what references meant: one small file each under ``refs/``, replaced atomically."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lora_cli.errors import MachineError
from lora_cli.refs.snapshot import Blob, RemoteFile, Revision
from lora_cli.store import Store
from lora_cli.store.disk import FORBIDDEN, on_disk, read_small, replace_file

SCHEMA = "lora_cli/ref/3"
LARGEST = 8_000_000
TEXTS = ("ref", "selection", "revision", "snapshot", "endpoint", "at")


@dataclass(frozen=True, slots=True)
class Record:
    """What one canonical reference meant when it was last fetched from ``endpoint``.

    ``endpoint`` is the address of the server, "" for this machine (a folder, the cache of huggingface_hub): the same
    reference may mean something else at another server. ``selection`` is that of the files, "" for the usual ones.
    ``at`` is where it was found, with the folder of a checkpoint or in an artifact and the new name of a repository; ""
    if that is unknown. ``identities`` has for each path what the origin said of its version. ``used_s`` is when it was
    last used, in seconds since 1970.
    """

    ref: str
    selection: str
    revision: str
    snapshot: str
    files: Mapping[str, Blob]
    identities: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    at: str = ""
    used_s: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """Reference, selection, endpoint."""
        return self.ref, self.selection, self.endpoint

    @property
    def blob_names(self) -> set[str]:
        """The sha256 of its files."""
        return {blob.sha256 for blob in self.files.values()}

    def blob(self, revision: Revision, file: RemoteFile) -> Blob | None:
        """The blob of a file of ``revision`` that is unchanged since, else None.

        It is unchanged if it has the sha256 of the listing or lock; else if the origin says the same of its version;
        else, where the origin says nothing, if the revision is the same.
        """
        blob = self.files.get(file.path)
        if blob is None or file.size not in {None, blob.size}:
            return None
        if file.sha256:
            return blob if blob.sha256 == file.sha256 else None
        if file.identity:
            return blob if self.identities.get(file.path) == file.identity else None
        return blob if self.revision == revision.id else None


def record_path(store: Store, ref: str, selection: str = "", endpoint: str = "") -> Path:
    """The file of one record: its name is a hash, because references hold what file names may not."""
    name = hashlib.sha256(f"{ref}\n{selection}\n{endpoint}".encode(errors="surrogateescape")).hexdigest()
    return store.refs / f"{name}.json"


def read_record(store: Store, ref: str, selection: str = "", endpoint: str = "") -> Record | None:
    """The record of ``ref`` at ``endpoint``; None if it is missing or cannot be read."""
    record = _read(record_path(store, ref, selection, endpoint))
    return record if record is not None and record.key == (ref, selection, endpoint) else None


def all_records(store: Store) -> Iterator[Record]:
    """Every record, in the order of the references."""
    found = map(_read, store.refs.glob("*.json"))
    yield from sorted((record for record in found if record), key=lambda record: record.key)


def write_record(store: Store, record: Record) -> None:
    """Writes the record of a reference; an identical one is only touched. A read-only cache stays as it is.

    Raises ``MachineError`` for another disk error.
    """
    path = record_path(store, *record.key)
    files = {
        name: {"sha256": blob.sha256, "size": blob.size, "identity": record.identities.get(name, "")}
        for name, blob in record.files.items()
    }
    value = {"schema": SCHEMA, "files": files, **{name: getattr(record, name) for name in TEXTS}}
    data = json.dumps(value, sort_keys=True).encode()
    with on_disk("writing", path):
        try:
            store.tag()
            if read_small(path, LARGEST) != data or not _touch(path):
                # Not durable: if a power failure loses the record, the origin is asked again.
                replace_file(path, data, durable=False)
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise


def mark_used(store: Store, record: Record) -> None:
    """Sets when a record was last used to now, by the clock of the file system, if this user may.

    One that is not there is written: its snapshot is in use.
    """
    with suppress(MachineError, OSError):
        if not _touch(record_path(store, *record.key)):
            write_record(store, record)


def _touch(path: Path) -> bool:
    """Sets the time of a file to now; False if it is missing or another user's, and so has to be replaced.

    Raises ``OSError``.
    """
    try:
        os.utime(path)
    except (FileNotFoundError, PermissionError):
        return False
    return True


def _read(path: Path) -> Record | None:
    try:
        value = json.loads(read_small(path, LARGEST) or b"")
        if value.pop("schema") != SCHEMA:
            return None
        files = value.pop("files")
        blobs = {name: Blob(one["sha256"], one["size"]) for name, one in files.items()}
        identities = {name: one["identity"] for name, one in files.items()}
        return Record(**value, files=blobs, identities=identities, used_s=path.stat().st_mtime)
    except (ValueError, TypeError, KeyError, AttributeError, OSError):  # cut off by a power failure
        return None
