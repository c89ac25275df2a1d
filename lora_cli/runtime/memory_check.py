"""Memory for a plan: checked before it is allocated; an error has the bytes that are missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lora_cli.errors import MachineError
from lora_cli.runtime.lora_slots import Slots, storage_bytes
from lora_cli.runtime.plan import Plan, TierLimits

HINT = "lower --max-loras, --max-cpu-loras or --max-lora-rank"

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
        raise MachineError("out of memory", hint="lower --max-loras or --max-cpu-loras") from error


def storage(plan: Plan, dtype: torch.dtype, device: torch.device) -> tuple[Slots, Slots, int]:
    """The slots, the storage of memory's places, and how many places those are, all of it taken now.

    On a CPU both are one storage, with room for what is in a slot and in no place any more. Without an explicit
    ``max_cpu_loras`` there are as many places as fit into half of what the slots leave free.

    Raises:
        MachineError: there is no room for them, with the bytes that they are short of.
    """
    modules, rank, loras = (
        {path: plan.base.modules[path] for path in plan.modules},
        plan.limits.max_lora_rank,
        plan.limits.max_loras,
    )
    on_cpu, slots = device.type == "cpu", f"{loras} slots of rank {rank}"
    one, free = storage_bytes(modules, 1, rank, dtype), available_bytes(torch.device("cpu"))
    places = _places(plan.limits, one, None if free is None else free - on_cpu * loras * one)
    what = f"{places} adapters in memory{f' and {slots}' * on_cpu}"
    refuse_if_short(what, (places + on_cpu * loras) * one, free, HINT)
    if on_cpu:
        both = Slots(modules, places + loras, rank, dtype=dtype)
        return both, both, places
    refuse_if_short(slots, loras * one, available_bytes(device), HINT)
    host_slots = Slots(modules, places, rank, dtype=dtype, one_piece=True)
    return Slots(modules, loras, rank, dtype=dtype, device=device, one_piece=True), host_slots, places


def _places(limits: TierLimits, one: int, free: int | None) -> int:
    """The number of adapters that fit in memory; each takes ``one`` bytes, and ``free`` are left beside the slots."""
    places = limits.max_cpu_loras
    if limits.max_cpu_bytes is not None:
        refuse_if_short(f"the factors of an adapter of rank {limits.max_lora_rank}", one, limits.max_cpu_bytes, HINT)
        places = min(places, limits.max_cpu_bytes // max(one, 1))
    if limits.fewer_places and free is not None:
        # The other half is for proofs and the base's weights.
        places = min(places, max(1, free // 2 // max(one, 1)))
    return places
