"""What another tool has downloaded to this machine already: copied or shared, hashed, and only then believed."""

import os
from contextlib import suppress

from lora_cli.core.log import logger
from lora_cli.core.snapshot import Revision
from lora_cli.fetching.transfer import Transfer
from lora_cli.sources import Source, is_holding
from lora_cli.store.disk import on_disk, reflink, write_all
from lora_cli.store.partials import Partial

CHUNK = 1 << 20

log = logger(__name__)


def adopt(source: Source, revision: Revision, transfer: Transfer) -> None:
    """Lets a partial file go on with what this machine has of it; it is hashed as an earlier writer's bytes are.

    Only a file with a digest and a size to be held to is taken. Where there is none, nothing happens.

    Raises:
        MachineError: it cannot be written.
    """
    file, target = transfer.file, transfer.partial
    promised = file.sha256 or file.git_sha1
    have = 0 if target is None else target.size
    if not is_holding(source) or not promised or not file.size or have >= file.size:
        return
    # It is kept under the name that its origin has for it: a lock may have told more of it.
    with source.held(revision, revision.file(file.path) or file) as descriptor:
        if descriptor is None:
            return
        log.info("%s: taken from the cache of the Hub's own client", transfer.label)
        if target is None:
            _take(descriptor, transfer)
        elif target.size or not reflink(descriptor, target.descriptor):
            _copy(descriptor, transfer, target)


def _take(descriptor: int, transfer: Transfer) -> None:
    with suppress(OSError):
        transfer.held.append(os.pread(descriptor, transfer.file.size or 0, 0))


def _copy(descriptor: int, transfer: Transfer, target: Partial) -> None:
    """As far as it can be read: the rest is fetched."""
    size = transfer.file.size or 0
    at = target.size
    while at < size:
        try:
            chunk = os.pread(descriptor, min(CHUNK, size - at), at)
        except OSError:
            return
        if not chunk:
            return
        with on_disk("writing", target.path):
            write_all(target.descriptor, chunk, at)
        at += len(chunk)
