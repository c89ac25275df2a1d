"""The load costs of engines: published figures, files of ``--save-links``, and measured results."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_cli.bench.link_model import Link, Links
from lora_cli.bench.live.result import SERVER
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.report import LiveReport
from lora_cli.bench.result_file import read_result
from lora_cli.core import parse
from lora_cli.core.text import cut, safe
from lora_cli.errors import FormatError, UsageError

PRESETS: Mapping[str, Links] = {
    "lora-cli": Links(),
    "vllm": Links(
        Link(45.0, 2.1, "published"),
        Link(7.5, None, "published"),
        "vLLM 0.8.5, Llama-3.1-8B on one GPU, weights on GPFS (logs of the BSC Digital Twin, arXiv 2508.08343): "
        "medians of 66, 83 and 126 ms from disk at rank 8, 16 and 32, fitted with 5 MiB for each rank; means of "
        "6.5 to 8.7 ms into a slot, whatever the rank",
    ),
}
"""Only engines with published or derivable load times. Qwen2.5-7B took 9 to 21 and 3 to 4 ms in the same logs."""

UNMEASURED = {"sglang": "SGLang"}
"""Engines whose loads nobody has published: SGLang's figures are times to first token under load."""

SCHEMA = "lora_cli/links/1"
SAVE_HINT = "serve-bench --url URL --save-links FILE measures a server"
TIER_OF_KIND = {"hot": "gpu", "warm": "cpu", "cold": "disk"}
"""The tiers of a live result, as they are called in process."""

HINT = "the result of serve-bench REF... --base BASE --save-result, with --forward modules or without"

_MS = parse.number_within(0, 1e9, "ms")
_GB_PER_S = parse.number_within(1e-6, 1e9, "GB/s")


def parse_links(text: str, flag: str) -> Links:
    """The load costs of a preset, or of a file: one of ``--save-links``, or a saved result.

    Raises:
        LoraCliError: the engine has no published figures, or the file cannot be read or has no load costs.
    """
    if text in PRESETS:
        return PRESETS[text]
    if text in UNMEASURED:
        raise UsageError(f"{flag} {text}: {UNMEASURED[text]} has no published load times", hint=SAVE_HINT)
    document = read_result(Path(text), flag, f"{', '.join(PRESETS)}, or a file: {SAVE_HINT}")
    if document.get("schema") != SCHEMA:
        return _of_result(document, Path(text), flag)
    try:
        source = parse.text(parse.required(document, "source", text), f"{text}: source")
        disk, gpu = (_link(document.get(name), f"{text}: {name}") for name in ("disk", "gpu"))
    except FormatError as error:
        raise UsageError(f"{flag} {error.message}", hint=SAVE_HINT) from error
    return Links(disk, gpu, cut(safe(source), 400))


def _link(value: Any, where: str) -> Link:
    """A link of a file. Raises ``FormatError``."""
    fields = parse.mapping(value, where)
    ms = _MS(parse.required(fields, "ms", where), f"{where}.ms")
    gb_per_s = parse.optional(_GB_PER_S)(fields.get("gb_per_s"), f"{where}.gb_per_s")
    return Link(float(ms), None if gb_per_s is None else float(gb_per_s), "measured")


def links_text(links: Links) -> str:
    """The contents of a links file."""
    document: dict[str, Any] = {"schema": SCHEMA, "source": links.source}
    document |= {
        name: {"ms": one.ms, "gb_per_s": one.gb_per_s} for name, one in (("disk", links.disk), ("gpu", links.gpu))
    }
    return json.dumps(document, indent=2) + "\n"


def links_of_run(result: LiveReport, server: str) -> Links:
    """The load costs of a live run: load times where the server reports them, else times to first token.

    Raises:
        UsageError: no request was hot, warm or cold.
    """
    reported = result.tiers_from == SERVER
    found: dict[str, list[float]] = {"gpu": [0.0] if reported else [], "cpu": [], "disk": []}
    for run in result.runs:
        for kind, load_ms, ttft_s in zip(run.tiers, run.load_ms, run.ttfts, strict=True):
            value = load_ms if reported else None if ttft_s is None else ttft_s * 1e3
            if kind in TIER_OF_KIND and value is not None:
                found[TIER_OF_KIND[kind]].append(value)
    how = "load times that it reported" if reported else "times to first token, by inferred tiers"
    return _differences(found, f"measured at {server}: {how}", "--save-links")


def read_links(file: Path, flag: str) -> Links:
    """The load costs of a run in process, or of a run with lora-cli's server, which reports each load's time.

    In process they are by how much warm requests took longer than hot ones, and cold than warm ones. All are
    differences of medians, for an adapter of the size that was measured.

    Raises:
        LoraCliError: the file cannot be read, or is no result of a run that had requests of all these kinds.
    """
    return _of_result(read_result(file, flag), file, flag)


def _of_result(document: Mapping[str, Any], file: Path, flag: str) -> Links:
    tiers: Mapping[str, Sequence[float]]
    try:
        if document.get("mode") == "live":
            tiers = _loads(document, str(file))
        else:
            tiers = parse.map_of(parse.list_of(_MS))(document.get("latency_ms"), f"{file}: latency_ms")
    except FormatError as error:
        raise UsageError(f"{flag} {error.message}", hint=HINT) from error
    return _differences(tiers, f"measured: {safe(file)}", f"{flag} {file}")


def _differences(tiers: Mapping[str, Sequence[float]], source: str, where: str) -> Links:
    """Both links, from the times of requests by tier. Raises ``UsageError`` where a tier has none."""
    medians = {}
    for tier, kind in (("gpu", "in a slot"), ("cpu", "in memory"), ("disk", "on disk")):
        if not tiers.get(tier):
            raise UsageError(f"{where}: no request found its adapter {kind}", hint="use more requests, or other tiers")
        medians[tier] = nearest_rank(sorted(tiers[tier]), 0.5)
    read_ms, put_ms = medians["disk"] - medians["cpu"], medians["cpu"] - medians["gpu"]
    return Links(Link(max(read_ms, 0.0), None, "measured"), Link(max(put_ms, 0.0), None, "measured"), source)


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
            if tier != "hot" and tier in TIER_OF_KIND and load_ms is not None:
                found[TIER_OF_KIND[tier]].append(load_ms)
    return found
