"""How much memory there is to take: what the machine has left, and what the container's limit leaves (cgroup v2)."""

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that can be taken now; None where the machine does not say."""
    return min((limit for limit in (_machine(), container_memory()) if limit is not None), default=None)


def container_memory() -> int | None:
    """What the container's limit leaves; None without one. Files that were read and can be dropped are not in use."""
    try:
        limit, used, kinds = ((CGROUP / file).read_text() for file in ("memory.max", "memory.current", "memory.stat"))
    except OSError:
        return None
    if not limit.strip().isdigit():
        return None
    droppable = next((line.split()[1] for line in kinds.splitlines() if line.startswith("inactive_file ")), "0")
    return max(0, int(limit) - max(0, int(used) - int(droppable)))


def _machine() -> int | None:
    try:
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    except OSError:
        return None
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None
