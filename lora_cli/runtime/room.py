"""How much memory there is for a plan: refused before it is taken, with the bytes that it is short of."""

from pathlib import Path

import torch

from lora_cli.errors import MachineError

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be taken on ``device`` now; None where the machine does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [limit for limit in (_memory(), _cgroup()) if limit is not None]
    return min(limits, default=None)


def refuse_if_short(what: str, needed: int, available: int | None, hint: str) -> None:
    """Raises ``MachineError`` when ``needed`` bytes are more than ``available`` (None: nobody knows, so try)."""
    if available is not None and needed > available:
        raise MachineError(
            f"{what} need {needed} bytes, and {available} are free: {needed - available} short", hint=hint
        )


def _memory() -> int | None:
    if not MEMINFO.is_file():
        return None
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def _cgroup() -> int | None:
    """What the container's limit leaves (cgroup v2). Files that were read and can be dropped again are not in use."""
    try:
        limit, used, kinds = ((CGROUP / file).read_text() for file in ("memory.max", "memory.current", "memory.stat"))
    except OSError:
        return None
    if not limit.strip().isdigit():
        return None
    droppable = next((line.split()[1] for line in kinds.splitlines() if line.startswith("inactive_file ")), "0")
    return max(0, int(limit) - max(0, int(used) - int(droppable)))
