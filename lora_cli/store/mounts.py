"""What kind of file system a path lies on."""

import os
from contextlib import suppress
from pathlib import Path

MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems that are memory and nothing else."""


def file_system(path: Path) -> str:
    """The type of the file system (``ext4``) that holds ``path`` or would hold it; empty where that is not known.

    ``/proc/self/mountinfo`` names each by the device number that its files have.
    """
    with suppress(OSError, IndexError):
        device = nearest_folder(path).stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            mount, _, source = line.partition(" - ")
            if mount.split(" ")[2] == wanted:
                return source.split(" ")[0]
    return ""


def nearest_folder(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)
