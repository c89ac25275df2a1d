"""Memory that is free, and errors with the bytes that are missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lora_cli.errors import MachineError

HINT = "lower --max-loras or --max-cpu-loras"

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Files for limit, usage and statistics, and the statistic of droppable memory: of cgroup v2, and of v1."""
NO_LIMIT = 1 << 60
"""Without a limit v1 reports nearly 2^63."""


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be taken on ``device`` now; None if the machine does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min((limit for limit in (_machine(), _container()) if limit is not None), default=None)


def _container() -> int | None:
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


def refuse_if_short(what: str, needed: int, available: int | None, hint: str) -> None:
    """Raises ``MachineError`` when ``needed`` bytes are more than ``available`` (None: unknown, so try)."""
    if available is not None and needed > available:
        raise MachineError(
            f"{what} need {needed} bytes, but {available} are free: {needed - available} too few", hint=hint
        )


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Translates errors of a device or machine that is out of memory within the block to ``MachineError``."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MachineError("out of memory", hint=HINT) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise MachineError("out of memory", hint=HINT) from error
