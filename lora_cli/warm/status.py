"""A server's status: the document of ``GET /v1/status`` and of ``warm --status --format json``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_cli.json_schema import Count, NonNegative, Version
from lora_cli.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    """One adapter that the server knows."""

    name: str
    source: str
    state: Literal["absent", "loading", "ready", "failed"]
    digest: str = ""
    """Its snapshot's; empty if it is not on this disk yet."""
    tier: Literal["gpu", "cpu", "disk", "remote"]
    pinned: bool
    rank: Count | None
    bytes: Count
    applied: str
    requests: Count
    last_used: NonNegative | None
    """Seconds since 1970; null if not requested."""
    worst_error: NonNegative | None
    """Of its proof, over all modules."""
    stage_ms: Mapping[str, NonNegative]
    error: str = ""
    """Why its last load failed; empty if it did not."""
    hint: str = ""
    rule: str = ""
    """The rule that refused it, else the stage at which it failed."""
    failures: Count
    retry_in_s: NonNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """The process, its tiers and its adapters. A field may be added under the same number."""

    schema: Literal["lora_cli/status/2"] = "lora_cli/status/2"
    version: Version = __version__
    base: str
    ready: bool
    up_s: NonNegative
    device: str
    dtype: str
    weights: str
    pid: int
    """The process that holds model and adapters."""
    starts: Count
    """How often it was started: after a crash the supervisor starts another."""
    tiers: Mapping[str, Mapping[str, Count | None]]
    eviction_order: Mapping[str, Sequence[str]]
    """The adapters in slots (gpu) and in memory (cpu) by name, the first to be evicted first."""
    adapters: Sequence[AdapterStatus]


def finite(number: float | None) -> float | None:
    """``number``, or None where JSON has none for it."""
    return number if number is not None and math.isfinite(number) else None
