"""The cost of a load: a latency in milliseconds and a bandwidth in GB/s."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Literal

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
    """From disk into memory, and from memory into a slot; ``source`` says where the numbers come from."""

    disk: Link = DISK_LINK
    gpu: Link = GPU_LINK
    source: str = OWN_SOURCE


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
