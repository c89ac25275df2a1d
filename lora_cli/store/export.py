"""Exported folders (``fetch --to``): a snapshot's files, with the weights hard-linked and the rest copied."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lora_cli.core.snapshot import Blob, Snapshot
from lora_cli.errors import UsageError
from lora_cli.store import Store
from lora_cli.store.blobs import is_sound, sha256_of
from lora_cli.store.disk import on_disk
from lora_cli.store.snapshots import build_directory

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def export_snapshot(store: Store, snapshot: Snapshot, target: Path) -> Path:
    """Creates the folder ``target`` with the snapshot's files by one rename; one with the same files stays.

    Raises:
        UsageError: something else is there.
        LostBlob: a blob is no longer in the cache.
        MachineError: a disk error.
    """
    if _contains(store, target, snapshot.files):
        return target
    building = target.with_name(f".{target.name[:100]}.{os.urandom(6).hex()}")
    try:
        with on_disk("writing", target, "--to"):
            build_directory(store, snapshot.files, building, linked=is_weights)
            try:
                building.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                if not _contains(store, target, snapshot.files):
                    raise UsageError(
                        f"{target} exists and is not empty", hint="use a folder that does not exist"
                    ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def is_weights(path: str) -> bool:
    """Whether a file is exported as a hard link: weights are large, and are not edited."""
    return path.endswith(WEIGHTS)


def _contains(store: Store, target: Path, files: Mapping[str, Blob]) -> bool:
    """Whether ``target`` has exactly these files, byte for byte; False if it is removed meanwhile."""
    if not target.is_dir() or target.is_symlink():
        return False
    try:
        found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
        return found == files.keys() and all(_is_blob(store, target / path, blob) for path, blob in files.items())
    except FileNotFoundError:
        return False


def _is_blob(store: Store, path: Path, blob: Blob) -> bool:
    try:
        if path.is_symlink() or path.stat().st_size != blob.size:
            return False
        # The time of a blob shows that it is unchanged, not which one it is.
        if path.samefile(store.blob(blob.sha256)):
            return is_sound(path, blob)
    except FileNotFoundError:
        pass
    return sha256_of(path) == blob.sha256
