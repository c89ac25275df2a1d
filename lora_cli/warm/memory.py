"""Memory that is free, and errors with the bytes that are missing."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from lora_cli.errors import MachineError

CGROUP = Path("/sys/fs/cgroup")
HINT = "lower --max-loras or --max-cpu-loras"


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be taken on ``device`` now, within the container's limit (cgroup v2); None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError):
        limit, used, kinds = ((CGROUP / name).read_text() for name in ("memory.max", "memory.current", "memory.stat"))
        # Page cache can be dropped.
        dropped = sum(int(line.split()[1]) for line in kinds.splitlines() if line.startswith("inactive_file "))
        if limit.strip().isdigit():
            free.append(max(0, int(limit) - max(0, int(used) - dropped)))
    return min(free, default=None)


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
