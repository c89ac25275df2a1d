"""A server's status: the document of ``GET /v1/status`` and of ``warm --status --format json``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_cli.json_schema import Count, NonNegative, Version
from lora_cli.runtime.messages import TierStatus
from lora_cli.version import __version__


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One adapter that the server knows."""

    name: str
    source: str
    digest: str
    """Its snapshot's; empty if it is not on this disk yet."""
    tier: Literal["gpu", "cpu", "disk", "remote"]
    pinned: bool
    rank: Count | None
    bytes: Count
    applied: str
    requests: Count
    last_used: NonNegative | None
    """Seconds since 1970; null if not requested."""
    proved: bool
    worst_error: NonNegative | None
    stage_ms: Mapping[str, NonNegative]
    error: str
    """Why its last load failed; empty if it did not."""
    hint: str
    stage: str
    failures: Count
    retry_in_s: NonNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """The process, its tiers and its adapters. A field may be added under the same number."""

    schema: Literal["lora_cli/status/1"] = "lora_cli/status/1"
    version: Version = __version__
    base: str
    ready: bool
    up_s: NonNegative
    device: str
    dtype: str
    weights: str
    child_pid: int | None
    """The process that owns the device; null while there is none."""
    child_starts: Count
    queued: Count
    tiers_age_s: NonNegative | None
    """How long ago that process said what is in the tiers; null if it never did."""
    tiers: Mapping[str, TierStatus]
    eviction_order: Mapping[str, Sequence[str]]
    """The adapters in slots (gpu) and in memory (cpu) by name, the first to be evicted first."""
    adapters: Sequence[AdapterStatus]
