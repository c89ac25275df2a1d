"""A folder in memory (tmpfs, ramfs) with a copy of each adapter by name, for an engine's resolver.

The page cache of a disk can be dropped at any moment; files on a tmpfs cannot. The space is checked before a copy is
written, a copy appears in one step, and an identical one stays (``store.published``).
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
from lora_cli.store.published import publish

OPTION = "--tier"
MEMORY = frozenset({"tmpfs", "ramfs"})
"""File systems that are only in memory."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Files for limit, usage and statistics, and the statistic of droppable memory: of cgroup v2, and of v1."""
NO_LIMIT = 1 << 60
"""Without a limit v1 reports nearly 2^63."""


class MemoryFolder:
    """The folder ``root``, created if it is missing. It writes one copy at a time, so that the checked space is free.

    Raises:
        UsageError: ``root`` is not on a file system in memory.
        MachineError: it cannot be created.
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
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["MemoryFolder"], tuple[Path]]:
        """Unpickles as the same folder, with a lock of its own."""
        return MemoryFolder, (self.root,)

    def keep(self, store: Store, snapshot: Snapshot, name: str) -> Path:
        """Copies a snapshot to ``root/name``, in place of an earlier copy.

        Raises:
            UsageError: something else is there.
            MachineError: there is not enough space, or another disk error.
        """
        target = self.root / name
        try:
            with self._lock:
                publish(store, snapshot, target, option=OPTION, check_space=self._check_space)
        except LostBlob as error:
            raise MachineError(f"{store.root} is being cleaned up at the same time", hint="try again") from error
        return target

    def _check_space(self, needed: int) -> None:
        free = free_bytes(self.root)
        if free is not None and needed > free:
            raise MachineError(
                f"{self.root} is {needed - free} bytes short: {needed} needed, {free} free",
                hint="increase its size or the container's limit (remount,size=…, sizeLimit), or remove adapters",
            )


def free_bytes(folder: Path) -> int | None:
    """Free bytes of a folder in memory, within its own size and the free memory; None if unknown.

    Files there count against the memory limit of the container that writes them.

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
    """Bytes of memory that are available now; None if unknown."""
    return min((limit for limit in (_machine(), container_memory()) if limit is not None), default=None)


def container_memory() -> int | None:
    """Free bytes within the container's limit; None without one. Droppable page cache counts as free."""
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
