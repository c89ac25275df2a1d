"""Views: ``adapters/<name>/``, an adapter's files under the name that an engine's resolver asks for."""

import os
from pathlib import Path

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Snapshot
from lora_cli.store import Store
from lora_cli.store.disk import is_read_only, on_disk
from lora_cli.store.exchange import clear, discard, put
from lora_cli.store.handout import holds, is_weights
from lora_cli.store.snapshots import build_directory
from lora_cli.store.writers import new_writer

log = logger(__name__)


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
            log.warning("%s may not be written: there is no view of %s there", store.adapters, name)
        finally:
            discard(building)
    return target
