"""What loads cost on a machine where they were measured."""

from pathlib import Path
from typing import Any

from lora_cli.bench.links import Link, Links
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.result_file import read_result
from lora_cli.core import parse
from lora_cli.errors import FormatError, UsageError


def read_links(file: Path, flag: str) -> Links:
    """The loads of a run in process: by how much warm requests took longer than hot ones, and cold than warm ones.

    They are differences of medians, for an adapter of the size that was measured.

    Raises:
        LoraCliError: the file cannot be read, or is no result of a run that had requests of all three kinds.
    """
    try:
        tiers = parse.map_of(parse.list_of(_ms))(read_result(file, flag).get("latency_ms"), f"{file}: latency_ms")
    except FormatError as error:
        raise UsageError(
            f"{flag} {error.message}", hint="the result of serve-bench --forward modules --save-result"
        ) from error
    medians = {}
    for tier, kind in (("gpu", "in a slot"), ("cpu", "in memory"), ("disk", "on disk")):
        if not tiers.get(tier):
            raise UsageError(
                f"{flag} {file}: no request found its adapter {kind}", hint="more requests, or other tiers"
            )
        medians[tier] = nearest_rank(sorted(tiers[tier]), 0.5)
    read_ms, put_ms = medians["disk"] - medians["cpu"], medians["cpu"] - medians["gpu"]
    return Links(Link(max(read_ms, 0.0), float("inf"), "measured"), Link(max(put_ms, 0.0), float("inf"), "measured"))


def _ms(value: Any, where: str) -> float:
    number = parse.number(value, where)
    if not 0 <= number <= 1e9:
        raise FormatError(f"must be from 0 to 1e9 ms, not {number:g}", where=where)
    return number
