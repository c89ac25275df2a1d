"""The cost of a load: a latency in milliseconds and a bandwidth in GB/s."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import cycle
from math import isfinite
from typing import Literal

from lora_cli.bench.step_times import StepTimes
from lora_cli.errors import UsageError

BYTES_PER_RANK = 5_242_880
"""Llama-3-8B with all seven projections of 32 layers adapted, in two bytes: 2,621,440 parameters for each rank."""

LinkOrigin = Literal["default", "given", "measured", "published"]


@dataclass(frozen=True, slots=True)
class Link:
    """What a load into a tier takes: some milliseconds, and the bytes at some GB/s."""

    ms: float
    gb_per_s: float | None
    origin: LinkOrigin

    def load_ms(self, size: int) -> float:
        """Milliseconds that ``size`` bytes take."""
        return self.ms + (size / self.gb_per_s / 1e6 if self.gb_per_s else 0.0)

    def __str__(self) -> str:
        rate = "" if self.gb_per_s is None else f" + bytes at {self.gb_per_s:g} GB/s"
        return f"{self.ms:g} ms{rate} ({self.origin})"


DISK_LINK = Link(2.0, 7.0, "default")
"""NVMe of PCIe Gen4."""

GPU_LINK = Link(1.0, 25.0, "default")
"""PCIe Gen4 with 16 lanes, out of pinned memory."""


OWN_SOURCE = "lora-cli's warm process: the rates of NVMe and PCIe Gen4, not measured; --links vllm for vLLM"


@dataclass(frozen=True, slots=True)
class Links:
    """From disk into memory, and from memory into a slot; ``source`` says where the numbers come from.

    ``loads_ms`` has whole loads of each of ``LOADS`` in the order in which they began; empty where only medians are
    known. With ``side_by_side`` loads do not wait for each other. ``steps`` are known with the first loads.
    """

    disk: Link = DISK_LINK
    gpu: Link = GPU_LINK
    source: str = OWN_SOURCE
    loads_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    side_by_side: bool = False
    steps: StepTimes = field(default_factory=StepTimes)


LOADS = ("warm", "cold", "first")
"""The kinds of measured loads: from memory, from disk, and the first one of an adapter, which is proved in it."""


class MeasuredLoads:
    """The times of successive loads: those that were measured, in their order, and again from the first on.

    They are in their order because the loads of one moment are alike: the first ones of a server, or those beside a
    slow one.
    """

    def __init__(self, links: Links) -> None:
        self._loads_ms = {kind: cycle(loads_ms) for kind, loads_ms in links.loads_ms.items()}

    def next_ms(self, kind: str) -> float | None:
        """Milliseconds of the next load of that kind; None if none was measured."""
        return next(self._loads_ms.get(kind, iter(())), None)


def parse_link(text: str, flag: str) -> Link:
    """``2,7``: milliseconds, and GB/s next to them; ``2`` alone is the whole load.

    Raises:
        UsageError: it is neither.
    """
    first, comma, second = text.partition(",")
    try:
        ms, rate = Decimal(first), Decimal(second) if comma else Decimal("inf")
        good = len(text) <= 40 and 0 <= ms <= 10**9 and Decimal("1e-6") <= rate
    except InvalidOperation:
        good = False
    if not good:
        raise UsageError(f"{flag} {text[:60]}: must be milliseconds and GB/s", hint=f"{flag} 2,7")
    return Link(float(ms), float(rate) if isfinite(float(rate)) else None, "given")
