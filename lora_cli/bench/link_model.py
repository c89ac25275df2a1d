"""The cost of a load: a latency in milliseconds and a bandwidth in GB/s; given, or measured on a machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.result_file import read_result
from lora_cli.core import parse
from lora_cli.errors import FormatError, UsageError

BYTES_PER_RANK = 5_242_880
"""Llama-3-8B with all seven projections of 32 layers adapted, in two bytes: 2,621,440 parameters for each rank."""

LinkOrigin = Literal["default", "given", "measured"]


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


@dataclass(frozen=True, slots=True)
class Links:
    """From disk into memory, and from memory into a slot."""

    disk: Link = DISK_LINK
    gpu: Link = GPU_LINK


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


TIER_OF_KIND = {"warm": "cpu", "cold": "disk"}
"""The tiers of a live result, as they are called in process."""

HINT = "the result of serve-bench REF... --base BASE --save-result, with --forward modules or without"

_MS = parse.number_within(0, 1e9, "ms")


def read_links(file: Path, flag: str) -> Links:
    """The load costs of a run in process, or of a run with lora-cli's server, which reports each load's time.

    In process they are by how much warm requests took longer than hot ones, and cold than warm ones. All are
    differences of medians, for an adapter of the size that was measured.

    Raises:
        LoraCliError: the file cannot be read, or is no result of a run that had requests of all these kinds.
    """
    document = read_result(file, flag)
    tiers: Mapping[str, Sequence[float]]
    try:
        if document.get("mode") == "live":
            tiers = _loads(document, str(file))
        else:
            tiers = parse.map_of(parse.list_of(_MS))(document.get("latency_ms"), f"{file}: latency_ms")
    except FormatError as error:
        raise UsageError(f"{flag} {error.message}", hint=HINT) from error
    medians = {}
    for tier, kind in (("gpu", "in a slot"), ("cpu", "in memory"), ("disk", "on disk")):
        if not tiers.get(tier):
            raise UsageError(
                f"{flag} {file}: no request found its adapter {kind}", hint="use more requests, or other tiers"
            )
        medians[tier] = nearest_rank(sorted(tiers[tier]), 0.5)
    read_ms, put_ms = medians["disk"] - medians["cpu"], medians["cpu"] - medians["gpu"]
    return Links(Link(max(read_ms, 0.0), None, "measured"), Link(max(put_ms, 0.0), None, "measured"))


def _loads(document: Mapping[str, Any], where: str) -> Mapping[str, Sequence[float]]:
    """The load times of warm and cold requests that the server reported. Raises ``FormatError``."""
    found: dict[str, list[float]] = {"gpu": [0.0], "cpu": [], "disk": []}
    if document.get("tiers_from") != "server":
        raise FormatError("the server did not report its load times", where=where)
    for number, run in enumerate(parse.list_of(parse.mapping)(document.get("runs"), f"{where}: runs")):
        at = f"{where}: runs[{number}]"
        tiers = parse.list_of(parse.text)(run.get("tiers"), f"{at}: tiers")
        loads = parse.list_of(parse.optional(_MS))(run.get("load_ms"), f"{at}: load_ms")
        for tier, load_ms in zip(tiers, loads, strict=False):
            if tier in TIER_OF_KIND and load_ms is not None:
                found[TIER_OF_KIND[tier]].append(load_ms)
    return found
