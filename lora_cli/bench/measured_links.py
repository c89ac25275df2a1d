"""What loads cost on a machine where they were measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_cli.bench.links import Link, Links
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.result_file import read_result
from lora_cli.core import parse
from lora_cli.errors import FormatError, UsageError

KINDS = {"warm": "cpu", "cold": "disk"}
"""The tiers of a live result, as they are called in process."""

HINT = "the result of serve-bench REF... --base BASE --save-result, with --forward modules or without"

_MS = parse.number_within(0, 1e9, "ms")


def read_links(file: Path, flag: str) -> Links:
    """The loads of a run in process, or of one at a server of ours, which says what each load took.

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
                f"{flag} {file}: no request found its adapter {kind}", hint="more requests, or other tiers"
            )
        medians[tier] = nearest_rank(sorted(tiers[tier]), 0.5)
    read_ms, put_ms = medians["disk"] - medians["cpu"], medians["cpu"] - medians["gpu"]
    return Links(Link(max(read_ms, 0.0), None, "measured"), Link(max(put_ms, 0.0), None, "measured"))


def _loads(document: Mapping[str, Any], where: str) -> Mapping[str, Sequence[float]]:
    """What the loads of warm and of cold requests took, as the server said. Raises ``FormatError``."""
    found: dict[str, list[float]] = {"gpu": [0.0], "cpu": [], "disk": []}
    if document.get("tiers_from") != "server":
        raise FormatError("the server did not say what its loads take", where=where)
    for number, run in enumerate(parse.list_of(parse.mapping)(document.get("runs"), f"{where}: runs")):
        at = f"{where}: runs[{number}]"
        tiers = parse.list_of(parse.text)(run.get("tiers"), f"{at}: tiers")
        loads = parse.list_of(parse.optional(_MS))(run.get("load_ms"), f"{at}: load_ms")
        for tier, load_ms in zip(tiers, loads, strict=False):
            if tier in KINDS and load_ms is not None:
                found[KINDS[tier]].append(load_ms)
    return found
