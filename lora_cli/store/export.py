"""Folders of a snapshot's files, with the weights hard-linked and the rest copied.

They are not lora-cli's, or a view: ``adapters/<name>/``, under the name that an engine's resolver asks for.
"""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Blob, Snapshot
from lora_cli.errors import UsageError
from lora_cli.store import Store
from lora_cli.store.atomic_swap import clear, discard, put, take_away
from lora_cli.store.blobs import is_sound, sha256_of
from lora_cli.store.disk import is_read_only, on_disk
from lora_cli.store.inventory import views
from lora_cli.store.snapshots import build_directory
from lora_cli.store.writer_ids import new_writer

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")

log = logger(__name__)


def hand_out(store: Store, snapshot: Snapshot, target: Path) -> Path:
    """Makes ``target`` a folder with the snapshot's files, by one rename; one that is the same already is left alone.

    Raises:
        UsageError: something else is there.
        LostBlob: a blob is not in the cache any more.
        MachineError: this machine does not let us.
    """
    if holds(store, target, snapshot.files):
        return target
    building = target.with_name(f".{target.name[:100]}.{new_writer().token}")
    try:
        with on_disk("writing", target, "--to"):
            build_directory(store, snapshot.files, building, linked=is_weights)
            try:
                building.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                if not holds(store, target, snapshot.files):
                    raise UsageError(
                        f"{target} exists and is not empty", hint="use a folder that does not exist"
                    ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def keep_view(store: Store, name: str, snapshot: Snapshot) -> Path:
    """Makes ``adapters/<name>/`` hold the snapshot's files: hard links for weights, copies for the rest, no link else.

    ``name`` is one that a manifest may give. One that is right already is left alone; another one is replaced whole.
    Where nothing can be written, a view that is missing stays so, and the log says it: a stale one is an error.

    Raises:
        LostBlob: a blob is not in the cache any more.
        MachineError: this machine does not let us.
    """
    target = store.adapters / name
    with on_disk("writing", target):
        if holds(store, target, snapshot.files):
            return target
        building = store.partials / snapshot.digest / str(new_writer())
        try:
            build_directory(store, snapshot.files, building, linked=is_weights)
            target.parent.mkdir(parents=True, exist_ok=True)
            if (old := put(building, target)) is not None:
                clear(old)
        except OSError as error:
            if not is_read_only(error) or os.path.lexists(target):
                raise
            log.warning("%s is not writable: there is no view of %s there", store.adapters, name)
        finally:
            discard(building)
    return target


def drop_views(store: Store, digests: Mapping[str, str]) -> None:
    """Removes the views of these names that hold the snapshots of these digests; any others stay.

    Raises:
        MachineError: this machine does not let us.
    """
    if not digests:
        return
    with on_disk("cleaning", store.adapters):
        for name, digest in views(store).items():
            if digests.get(name) == digest:
                take_away(store, store.adapters / name)


def is_weights(path: str) -> bool:
    """Whether a file is written to a folder as a hard link: it is large, and is not edited."""
    return path.endswith(WEIGHTS)


def holds(store: Store, target: Path, files: Mapping[str, Blob]) -> bool:
    """Whether ``target`` holds these files and no others, byte for byte; not, when it is taken away meanwhile."""
    if not target.is_dir() or target.is_symlink():
        return False
    try:
        found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
        return found == files.keys() and all(_is(store, target / path, blob) for path, blob in files.items())
    except FileNotFoundError:
        return False


def _is(store: Store, path: Path, blob: Blob) -> bool:
    try:
        if path.is_symlink() or path.stat().st_size != blob.size:
            return False
        # The time of a blob says that it was not touched, never which one it is.
        if path.samefile(store.blob(blob.sha256)):
            return is_sound(store, path, blob)
    except FileNotFoundError:
        pass
    return sha256_of(path) == blob.sha256
