"""Partial downloads: files that are written in order, so that their length is what has been received.

Whoever has the lock of a file goes on with it; another process writes a file of its own.
"""

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lora_cli.store import Store
from lora_cli.store.disk import create, on_disk, opened
from lora_cli.store.locks import claim, is_named


@dataclass(frozen=True, slots=True)
class Partial:
    """A file that only this process writes, open for reading and writing; ``size`` is its length when it was opened."""

    path: Path
    descriptor: int
    size: int

    def close(self, *, keep: bool = False) -> None:
        """Closes the file, and removes it unless the next process is to go on with it."""
        with suppress(OSError):
            if not keep and is_named(self.path, self.descriptor):
                self.path.unlink()
        os.close(self.descriptor)


def open_partial(store: Store, key: str, longest: int, *, digest_known: bool = True) -> Partial:
    """The file of ``key``, resumed if nobody writes it and it has at most ``longest`` bytes.

    The caller verifies the bytes. Unless a digest is known (``digest_known``), a file from before this machine
    started is not resumed: a power failure may have lost some of them. Raises ``MachineError``.
    """
    path, descriptor = store.partials / f"{key}.part", None
    with on_disk("writing", path):
        store.tag()
        with suppress(OSError):  # another process has it, or it cannot be known that none has
            descriptor = claim(path, mode=0o600)
        if descriptor is None:
            path = store.partials / f"{key}.{os.urandom(6).hex()}.part"
            descriptor = create(path, os.O_RDWR | os.O_EXCL, 0o600)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        status = os.fstat(descriptor)
        lost = not digest_known and status.st_mtime <= time.time() - time.monotonic()
        if not (lost or status.st_size > longest):
            return Partial(path, descriptor, status.st_size)
        os.ftruncate(descriptor, 0)
        return Partial(path, descriptor, 0)


def is_written(path: Path) -> bool:
    """Whether a process writes this partial file or folder; False where that cannot be told."""
    with suppress(OSError), opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
