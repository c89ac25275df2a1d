"""The load costs of engines: published figures, files of ``--save-links``, and measured results."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from lora_cli.bench.link_model import LOADS, Link, Links
from lora_cli.bench.live.result import SERVER
from lora_cli.bench.quantiles import nearest_rank
from lora_cli.bench.report import LiveReport, LoadedAdapters
from lora_cli.bench.result_file import read_result
from lora_cli.bench.step_times import MOST_SIZES, StepTimes, TokenTimes, measure_steps
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
    "sglang": Links(
        Link(35.0, 19.0, "measured"),
        Link(15.0, 12.5, "measured"),
        "SGLang 0.5.23's own loader and memory pool on two CPU cores, without a GPU: Llama-3.1-8B, rank 8 to 64, "
        "weights in the page cache, slots in memory (benchmarks/sglang_loads.py)",
    ),
}
"""Of vLLM, Qwen2.5-7B took 9 to 21 and 3 to 4 ms in the same logs. Nobody has published load times of SGLang."""

SCHEMA = "lora_cli/links/1"
MOST_LOADS = 1000
SAVE_HINT = "serve-bench --url URL --save-links links.json measures a server; then --links links.json"
TIER_OF_KIND = {"hot": "gpu", "warm": "cpu", "cold": "disk"}
"""The tiers of a live result, as they are called in process."""

HINT = "the result of serve-bench REF... --base BASE --save-result, with --forward modules or without"

_MS = parse.number_within(0, 1e9, "ms")
_GB_PER_S = parse.number_within(1e-6, 1e9, "GB/s")


def parse_links(text: str, flag: str) -> Links:
    """The load costs of a preset, or of a file: one of ``--save-links``, or a saved result.

    Raises:
        LoraCliError: the file cannot be read or has no load costs.
    """
    if text in PRESETS:
        return PRESETS[text]
    document = read_result(Path(text), flag, f"{', '.join(PRESETS)}, or a file: {SAVE_HINT}")
    if document.get("schema") != SCHEMA:
        return _of_result(document, Path(text), flag)
    try:
        source = parse.text(parse.required(document, "source", text), f"{text}: source")
        disk, gpu = (_link(document.get(name), f"{text}: {name}") for name in ("disk", "gpu"))
        loads_ms = parse.map_of(parse.list_of(_MS))(document.get("loads_ms", {}), f"{text}: loads_ms")
        side_by_side = parse.boolean(document.get("side_by_side", False), f"{text}: side_by_side")
        steps = _steps(document.get("steps_ms", {}), f"{text}: steps_ms")
    except FormatError as error:
        raise UsageError(f"{flag} {error.message}", hint=SAVE_HINT) from error
    loads_ms = {kind: tuple(map(float, loads_ms.get(kind, ()))) for kind in LOADS}
    return Links(disk, gpu, cut(safe(source), 400), loads_ms, side_by_side, steps)


def _link(value: Any, where: str) -> Link:
    """A link of a file. Raises ``FormatError``."""
    fields = parse.mapping(value, where)
    ms = _MS(parse.required(fields, "ms", where), f"{where}.ms")
    gb_per_s = parse.optional(_GB_PER_S)(fields.get("gb_per_s"), f"{where}.gb_per_s")
    return Link(float(ms), None if gb_per_s is None else float(gb_per_s), "measured")


def _steps(value: Any, where: str) -> StepTimes:
    """The times of steps, of a file. Raises ``FormatError``."""
    times_ms = parse.map_of(_MS)(value, where)
    if len(times_ms) > MOST_SIZES:
        raise FormatError(f"more than {MOST_SIZES} sizes", where=where)
    for size in times_ms:
        if not (size.isascii() and size.isdecimal() and 0 < len(size) < 8 and int(size)):
            raise FormatError(f"{cut(safe(size), 40)} is no number of tokens", where=where)
    return StepTimes({int(size): float(ms) for size, ms in times_ms.items()})


def links_text(links: Links) -> str:
    """The contents of a links file, with at most ``MOST_LOADS`` times of each kind of load, in their order."""
    document: dict[str, Any] = {"schema": SCHEMA, "source": links.source}
    document |= {
        name: {"ms": one.ms, "gb_per_s": one.gb_per_s} for name, one in (("disk", links.disk), ("gpu", links.gpu))
    }
    document["loads_ms"] = {kind: _thinned(loads_ms) for kind, loads_ms in links.loads_ms.items() if loads_ms}
    steps_ms = {str(size): round(ms, 3) for size, ms in sorted(links.steps.ms.items())}
    document |= {"side_by_side": links.side_by_side, "steps_ms": steps_ms}
    return json.dumps(document, indent=2) + "\n"


def _thinned(loads_ms: Sequence[float]) -> list[float]:
    """At most ``MOST_LOADS`` of them, from all parts of the list."""
    steps = min(len(loads_ms), MOST_LOADS)
    return [round(loads_ms[(2 * number + 1) * len(loads_ms) // (2 * steps)], 3) for number in range(steps)]


class LoadedRequest(NamedTuple):
    """A request of a live run: when it was sent, in seconds, its adapter, kind and load.

    ``ttft_s`` is the time to its first token, and ``itls_s`` are those between its tokens.
    """

    sent_s: float
    adapter: str
    kind: str
    load_ms: float | None
    ttft_s: float | None = None
    itls_s: Sequence[float] = ()
    prompt_tokens: int = 0


def links_of_run(result: LiveReport, server: str) -> Links:
    """The load costs of a live run: load times where the server reports them, else times to first token.

    Raises:
        UsageError: no request was hot, warm or cold.
    """
    columns = ("start_times", "adapters", "tiers", "load_ms", "ttfts", "itls", "input_lens")
    runs = [list(map(LoadedRequest, *(getattr(run, column) for column in columns))) for run in result.runs]
    if result.tiers_from == SERVER:
        return _reported(runs, result.at_start, f"measured at {server}: load times that it reported", "--save-links")
    found: dict[str, list[float]] = {"gpu": [], "cpu": [], "disk": []}
    for one in (one for run in runs for one in run):
        if one.kind in TIER_OF_KIND and one.ttft_s is not None:
            found[TIER_OF_KIND[one.kind]].append(one.ttft_s * 1e3)
    return _differences(found, f"measured at {server}: times to first token, by inferred tiers", "--save-links")


def _reported(runs: Sequence[Sequence[LoadedRequest]], start: LoadedAdapters | None, source: str, where: str) -> Links:
    """The load costs of a server that reports each load's time. Raises ``UsageError``, as ``_differences`` does.

    The first load of each adapter is one of its own kind, if it is known which were loaded before. A request that came
    while its adapter was being loaded has only the rest of that load, which is not counted.
    """
    loads: dict[str, list[float]] = {kind: [] for kind in LOADS}
    used = set(start.used) if start is not None else None
    for run in runs:
        loaded_s: dict[str, float] = {}
        for one in sorted(run, key=lambda one: one.sent_s):
            if one.load_ms is None or one.kind not in LOADS:
                continue
            if one.sent_s < loaded_s.get(one.adapter, 0.0):
                continue
            loaded_s[one.adapter] = one.sent_s + one.load_ms / 1e3
            loads["first" if used is not None and one.adapter not in used else one.kind].append(one.load_ms)
            if used is not None:
                used.add(one.adapter)
    links = _differences({"gpu": [0.0], "cpu": loads["warm"], "disk": loads["cold"] or loads["first"]}, source, where)
    loads_ms = {kind: tuple(own) for kind, own in loads.items()}
    return replace(links, loads_ms=loads_ms, side_by_side=True, steps=measure_steps(_token_times(runs[-1])))


def _token_times(run: Iterable[LoadedRequest]) -> Iterator[TokenTimes]:
    for one in run:
        if one.ttft_s is not None:
            tokens_s = accumulate(one.itls_s, initial=one.sent_s + one.ttft_s)
            yield TokenTimes(one.sent_s + (one.load_ms or 0.0) / 1e3, one.prompt_tokens, list(tokens_s))


def read_links(file: Path, flag: str) -> Links:
    """The load costs of a run in process, or of a run with lora-cli's server, which reports each load's time.

    In process they are by how much warm requests took longer than hot ones, and cold than warm ones. All are
    differences of medians, for an adapter of the size that was measured.

    Raises:
        LoraCliError: the file cannot be read, or is no result of a run that had requests of all these kinds.
    """
    return _of_result(read_result(file, flag), file, flag)


def _of_result(document: Mapping[str, Any], file: Path, flag: str) -> Links:
    source, where = f"measured: {safe(file)}", f"{flag} {file}"
    try:
        if document.get("mode") == "live":
            start = parse.optional(loaded_at_start)(document.get("at_start"), f"{file}: at_start")
            return _reported(_saved_runs(document, str(file)), start, source, where)
        tiers = parse.map_of(parse.list_of(_MS))(document.get("latency_ms"), f"{file}: latency_ms")
    except FormatError as error:
        raise UsageError(f"{flag} {error.message}", hint=HINT) from error
    return _differences(tiers, source, where)


def loaded_at_start(value: Any, where: str) -> LoadedAdapters:
    """The adapters that a server had loaded, of a saved result. Raises ``FormatError``."""
    given = parse.mapping(value, where)
    names = parse.list_of(parse.text)
    listed = (names(given.get(one, []), f"{where}.{one}") for one in ("slots", "memory", "used"))
    return LoadedAdapters(*(tuple(dict.fromkeys(one)) for one in listed))


def _saved_runs(document: Mapping[str, Any], where: str) -> list[list[LoadedRequest]]:
    """The requests of each seed in a saved live result. Raises ``FormatError``."""
    if document.get("tiers_from") != SERVER:
        raise FormatError("the server did not report its load times", where=where)
    found = []
    for number, run in enumerate(parse.list_of(parse.mapping)(document.get("runs"), f"{where}: runs")):
        items = {"start_times": _MS, "adapters": parse.text, "tiers": parse.text, "load_ms": parse.optional(_MS)}
        items |= {"ttfts": parse.optional(_MS), "itls": parse.list_of(_MS), "input_lens": parse.integer}
        places = range(len(parse.list_of(parse.text)(run.get("tiers"), f"{where}: runs[{number}]: tiers")))
        usual: dict[str, list[Any]] = {"start_times": list(places), "adapters": list(map(str, places))}
        usual |= {"ttfts": [None] * len(places), "itls": [()] * len(places), "input_lens": [0] * len(places)}
        columns: list[Any] = [
            parse.list_of(item)(run.get(name, usual.get(name)), f"{where}: runs[{number}]: {name}")
            for name, item in items.items()
        ]
        found.append([LoadedRequest(*one) for one in zip(*columns, strict=False)])
    return found


def _differences(tiers: Mapping[str, Sequence[float]], source: str, where: str) -> Links:
    """Both links, from the times of requests by tier. Raises ``UsageError`` where a tier has none."""
    medians = {}
    for tier, kind in (("gpu", "in a slot"), ("cpu", "in memory"), ("disk", "on disk")):
        if not tiers.get(tier):
            raise UsageError(f"{where}: no request found its adapter {kind}", hint="use more requests, or other tiers")
        medians[tier] = nearest_rank(sorted(tiers[tier]), 0.5)
    read_ms, put_ms = medians["disk"] - medians["cpu"], medians["cpu"] - medians["gpu"]
    return Links(Link(max(read_ms, 0.0), None, "measured"), Link(max(put_ms, 0.0), None, "measured"), source)
