"""Builders for a store in ``tmp_path``: blobs, snapshots and records, put there as a fetch does it."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from lora_cli.refs.snapshot import Blob, Snapshot
from lora_cli.store import Store
from lora_cli.store.records import Record, record_path, write_record
from lora_cli.store.snapshots import open_partial, publish_snapshot, store_blobs

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SQL = {CONFIG: b"{}", WEIGHTS: b"sql weights"}
CHAT = {CONFIG: b"{}", WEIGHTS: b"chat weights"}
NESTED = {**SQL, "sub/README.md": b"read"}


def put_blob(store: Store, data: bytes) -> Blob:
    """The bytes, kept as a download keeps them."""
    blob = Blob(hashlib.sha256(data).hexdigest(), len(data))
    partial = open_partial(store, blob.sha256, blob.size)
    os.ftruncate(partial.descriptor, 0)
    os.pwrite(partial.descriptor, data, 0)
    store_blobs(store, [(partial, blob)])
    partial.close()
    return blob


def put_snapshot(store: Store, files: Mapping[str, bytes], ref: str = "", used_s: float | None = None) -> Snapshot:
    """A published snapshot; ``ref`` means it since ``used_s``."""
    snapshot = publish_snapshot(store, {path: put_blob(store, data) for path, data in files.items()})
    if ref:
        write_record(store, Record(ref, "", "r1", snapshot.digest, snapshot.files))
        if used_s is not None:
            os.utime(record_path(store, ref), (used_s, used_s))
    return snapshot


def edit_in_place(path: Path, at: int = 0) -> None:
    """Changes one byte of a read-only file without making a new one."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    with path.open("r+b") as stream:
        stream.write(data)
    path.chmod(0o444)


def tree(root: Path) -> set[str]:
    """Every file below ``root``, but for the tag of a cache and its locks, which are empty files."""
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    return {path for path in found if path != "CACHEDIR.TAG" and not re.fullmatch("locks/[0-9a-f]+", path)}
