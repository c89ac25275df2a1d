"""Views: ``adapters/<name>/``, an adapter's files under the name that an engine's resolver asks for."""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from lora_cli.core.snapshot import Snapshot
from lora_cli.store import Store
from lora_cli.store.disk import is_read_only, on_disk
from lora_cli.store.exchange import exchange
from lora_cli.store.handout import holds, is_weights
from lora_cli.store.snapshots import build_directory
from lora_cli.store.writers import new_writer

log = logging.getLogger(__name__)

TRIES = 5


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
            _put(building, target)
        except OSError as error:
            if not is_read_only(error) or os.path.lexists(target):
                raise
            log.warning("%s may not be written: there is no view of %s there", store.adapters, name)
        finally:
            _clear(building)
    return target


def drop_view(store: Store, name: str) -> None:
    """Takes the view of that name away, all of it at once.

    Raises:
        OSError: as it comes.
    """
    aside = store.partials / "views" / str(new_writer())
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        with suppress(FileNotFoundError):
            (store.adapters / name).rename(aside)
    finally:
        _clear(aside)


def _put(building: Path, target: Path) -> None:
    """The new folder gets the name in one step, whatever had it before; that is then under ``building``."""
    for attempt in range(TRIES):
        try:
            if not os.path.lexists(target):
                building.rename(target)
            elif not exchange(building, target):
                # Between these two there is nothing; never a mixture.
                target.rename(aside := building.with_name(str(new_writer())))
                try:
                    building.rename(target)
                finally:
                    _clear(aside)
        except OSError as error:
            # Another process put its own there, or took it away, since we looked.
            if is_read_only(error) or attempt + 1 == TRIES:
                raise
        else:
            return


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        path.parent.rmdir()
