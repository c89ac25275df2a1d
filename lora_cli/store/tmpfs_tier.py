"""A folder of memory (tmpfs, ramfs) with a copy of each adapter by name, as an engine's resolver takes them.

The page cache of a disk can be dropped at any moment; what is on a tmpfs cannot. Copies are weighed before they are
made, appear in one step, and are left alone while they are right (``store.published``).
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

from lora_cli.core.snapshot import Snapshot
from lora_cli.errors import MachineError, UsageError
from lora_cli.store import Store
from lora_cli.store.blobs import LostBlob
from lora_cli.store.disk import nearest_folder, on_disk
from lora_cli.store.published import Publication, publish

OPTION = "--tier"
MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems that are memory and nothing else."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Limit, use, kinds of use, and the kind that can be dropped: of cgroup v2, and of v1."""
NO_LIMIT = 1 << 60
"""What v1 says without a limit is nearly 2^63."""


class MemoryFolder:
    """Holds the folder ``root``, which is made where it is missing. One copy at a time: what is weighed has its room.

    Raises:
        UsageError: ``root`` is not on a file system that is memory.
        MachineError: it cannot be made.
    """

    def __init__(self, root: Path) -> None:
        found = file_system(root)
        if found not in MEMORY:
            raise UsageError(
                f"{OPTION}: {root} is on {found or 'an unknown file system'}, which is not memory",
                hint=f"mount -t tmpfs -o size=8G tmpfs {root}, or in Kubernetes an emptyDir with medium: Memory",
            )
        with on_disk("making", root, OPTION):
            root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self._pen = threading.Lock()

    def __reduce__(self) -> tuple[type["MemoryFolder"], tuple[Path]]:
        """In another process: the same folder."""
        return MemoryFolder, (self.root,)

    def keep(self, store: Store, snapshot: Snapshot, name: str) -> Path:
        """Has a copy of that snapshot in ``root/name``, in place of another one that was copied there.

        Raises:
            UsageError: something else is there.
            MachineError: there is no room for it, and how many bytes are missing; or this machine does not let us.
        """
        target = self.root / name
        try:
            with self._pen:
                publish(store, Publication(snapshot), target, option=OPTION, weigh=self._weigh)
        except LostBlob as error:
            raise MachineError(f"{store.root} is being cleaned up at the same time", hint="try again") from error
        return target

    def _weigh(self, needed: int) -> None:
        free = free_bytes(self.root)
        if free is not None and needed > free:
            raise MachineError(
                f"{self.root} is {needed - free} bytes short: {needed} needed, {free} free",
                hint="increase its size or the container's limit (remount,size=…, sizeLimit), or remove adapters",
            )


def free_bytes(folder: Path) -> int | None:
    """What a folder of memory still takes: of its own size, and of the memory that it is; None: not known.

    What is written there counts against the limit of the container that writes it.

    Raises:
        OSError: as it comes.
    """
    status = os.statvfs(folder)
    own = status.f_bavail * status.f_frsize if status.f_blocks else None
    return min((limit for limit in (own, free_memory()) if limit is not None), default=None)


def file_system(path: Path) -> str:
    """The type of the file system (``ext4``) that holds ``path`` or would hold it; empty if that is not known.

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


def free_memory() -> int | None:
    """Bytes that can be taken now; None if the machine does not say."""
    return min((limit for limit in (_machine(), container_memory()) if limit is not None), default=None)


def container_memory() -> int | None:
    """What the container's limit leaves; None without one. Files that were read and can be dropped are not in use."""
    for limit_file, used_file, kinds_file, droppable in CGROUP_FILES:
        try:
            limit, used, kinds = ((CGROUP / file).read_text() for file in (limit_file, used_file, kinds_file))
        except OSError:
            continue
        if not limit.strip().isdigit() or int(limit) >= NO_LIMIT:
            return None
        dropped = next((line.split()[1] for line in kinds.splitlines() if line.startswith(f"{droppable} ")), "0")
        return max(0, int(limit) - max(0, int(used) - int(dropped)))
    return None


def _machine() -> int | None:
    try:
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    except OSError:
        return None
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None
