"""``lora-cli place``: splits an adapter set over servers by rank, traffic and slots."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lora_cli.bench.placement import (
    STRATEGIES,
    PlacedServer,
    PlacementReport,
    ServerEntry,
    ServerLimits,
    demands_of,
    strategies,
)
from lora_cli.bench.trace import Trace, read_trace
from lora_cli.cli import completion, options
from lora_cli.cli.adapter_selection import MAX_LORAS, Inputs, read_inputs
from lora_cli.cli.cluster import task_mapper
from lora_cli.cli.engine_options import highest_ranks, read_configs
from lora_cli.cli.options import OUTPUT, for_engine, option
from lora_cli.cli.output import check_writable, inform, table_width, to_stderr, width, write, write_result
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.core.text import counted, safe
from lora_cli.engines import Profile, choose_engine
from lora_cli.errors import MachineError, UsageError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.documents.manifest import AdapterSet

EXAMPLES = (
    "lora-cli place -f set.yaml --trace day.jsonl --servers 4 --hit-ratio 0.95",
    "lora-cli place -f set.yaml --servers 8 --max-loras 16 --to servers",
)

STDIN = "-"
READ_TOGETHER = 64
"""Adapters whose configs one task of a cluster reads."""
POLICY_KEYS = ("require_signature", "require_verdict")
POLICY_FILES, TRUST = ("keys", "certificates", "attestations"), "trust_config"
"""The keys of a policy whose entries name files, and the keys of those files."""
PLACEMENT = "Servers"


def command(
    ctx: typer.Context,
    manifest: list[Path] = options.adapter_option(
        "--manifest -f FILE", "Split the adapters of this manifest; repeat it for a set in several files.", default=...
    ),
    servers: int = option("--servers", "Number of servers.", ..., PLACEMENT, min=1, max=10_000),
    trace: Path | None = option(
        "--trace FILE", "Requests as JSON lines; default: all adapters have the same traffic.", None, PLACEMENT
    ),
    hit_ratio: float | None = option(
        "--hit-ratio SHARE",
        "Use the fewest slots that reach this share of requests with their adapter in a slot.",
        None,
        PLACEMENT,
        min=0,
        max=1,
    ),
    max_loras: int | None = option(
        "--max-loras", "Most slots of a server.", None, PLACEMENT, min=1, show_default="the manifest's, or 8"
    ),
    engine: str = for_engine("--engine", "The engine of the servers.", default="", **completion.ENGINE),
    to: Path | None = option("--to DIR", "Write the manifest of each server here: server-0.yaml, ...", None, OUTPUT),
    ray: options.Ray = None,
    output_format: options.OutputFormat = "human",
    output: options.OutputFile = None,
) -> None:
    """Split an adapter set over servers by rank, traffic and slots, and compare with round robin and hashing.

    Servers get adapters of few ranks and about the same number of tokens; hot adapters are on several servers. Exits
    with 1 if the slots of a server do not reach --hit-ratio.
    """
    settings: Settings = ctx.obj
    check_writable(output)
    document, inputs = _read_set(manifest, to or Path())
    profile = _profile(engine, inputs)
    requests = _requests(trace, inputs)
    limits = _limits(inputs, profile, max_loras, hit_ratio)
    with task_mapper(ray, "place") as mapper:
        adapters = read_configs(inputs, settings, mapper, together=READ_TOGETHER if ray else 0)
        demands = demands_of(highest_ranks(adapters, profile), requests)
        summaries = dict(strategies(demands, servers, limits, mapper))
    found = {name: summaries[name] for name in STRATEGIES}
    entries = _entries(document, inputs, profile, found["rank"].servers)
    report = PlacementReport(
        engine=str(profile.engine.name),
        adapters=len(demands),
        requests=len(requests) if requests is not None else 0,
        hit_ratio_goal=hit_ratio,
        strategies=found,
        servers=entries,
    )
    if to is not None:
        _write_manifests(to, entries)
        inform(f"wrote {counted(len(entries), 'manifest')} to {to}", settings)
    from lora_cli.render.terminal_place import place_parts

    columns = width(output) if output is not None else table_width()
    write_result(report, output_format, place_parts(report), output, columns=columns)
    if misses := found["rank"].misses_goal:
        to_stderr(f"failed: {counted(misses, 'server')} of {servers} cannot reach --hit-ratio {hit_ratio:g}")
        raise typer.Exit(1)


def _profile(named: str, inputs: Inputs) -> Profile:
    """The engine of the option, else of the manifest, else vLLM.

    Raises:
        UsageError: there is no such engine, or its options are unknown.
    """
    profile = choose_engine(named or (inputs.engine.wanted if inputs.engine is not None else "vllm"))
    if profile.engine.slots is None:
        raise UsageError(f"the options of {profile.engine.title} are unknown", hint="--engine vllm or --engine sglang")
    return profile


def _limits(inputs: Inputs, profile: Profile, max_loras: int | None, hit_ratio: float | None) -> ServerLimits:
    """What each server may have; the option counts before the manifest's engine."""
    spec = inputs.engine
    slots = max_loras or (spec and spec.max_loras) or MAX_LORAS
    pinned = frozenset(item.name for item in inputs.items if item.pinned)
    return ServerLimits(slots, hit_ratio, profile.engine.ranks, pinned)


def _requests(file: Path | None, inputs: Inputs) -> Trace | None:
    """The trace, whose adapters are all in the set."""
    if file is None:
        return None
    trace, known = read_trace(file), {item.name for item in inputs.items}
    for name in trace.names:
        if name not in known:
            raise UsageError(f"{file}: {safe(name)} is not in the manifest", hint=did_you_mean(name, sorted(known)))
    return trace


def _read_set(files: Sequence[Path], folder: Path) -> tuple[dict[str, Any], Inputs]:
    """The set of all manifests: as one document, whose paths are relative to ``folder``, and read.

    Raises:
        UsageError: they differ in more than their adapters, two adapters have one name, or one is standard input.
    """
    if STDIN in map(str, files):
        raise UsageError("place needs a manifest in a file", hint="-f set.yaml")
    parts = [read_inputs(file, [], "", "place") for file in files]
    sets = [part.manifest for part in parts if part.manifest is not None]
    documents = [_moved(one, file.absolute().parent, folder) for file, one in zip(files, sets, strict=True)]
    known: dict[str, Path] = {}
    for file, part, document in zip(files, parts, documents, strict=True):
        if {**document, "adapters": ()} != {**documents[0], "adapters": ()}:
            message = f"{file} and {files[0]} differ in more than their adapters"
            raise UsageError(message, hint="write the same base, engine, policy and sources into each file of a set")
        for item in part.items:
            if known.setdefault(item.name, file) is not file:
                raise UsageError(f"{file}: {item.name} is the name of an adapter in {known[item.name]}, too")
    adapters = [adapter for document in documents for adapter in document["adapters"]]
    return {**documents[0], "adapters": adapters}, replace(parts[0], items=tuple(chain(*(one.items for one in parts))))


def _entries(
    document: Mapping[str, Any], inputs: Inputs, profile: Profile, servers: Sequence[PlacedServer]
) -> list[ServerEntry]:
    """Each server with its options and its manifest."""
    import yaml

    from lora_cli.documents.yaml_nodes import Number

    # A subclass: numbers are written as they were in these documents alone.
    dumper: Any = type("Dumper", (yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper,), {})
    dumper.add_representer(Number, lambda written, one: written.represent_scalar("tag:yaml.org,2002:float", one.text))

    layout = profile.engine.slots
    assert layout is not None
    written = {entry["name"]: entry for entry in document["adapters"]}
    found, flags, places = [], layout.flags, inputs.engine and inputs.engine.max_cpu_loras
    for number, one in enumerate(servers):
        if not one.adapters:
            found.append(ServerEntry(number, one, 0, (), ""))
            continue
        slots = one.max_loras + layout.base_slots
        memory = max(min(len(one.adapters), places or len(one.adapters)), slots)
        limits = {"max_lora_rank": one.max_lora_rank, "max_loras": slots, "max_cpu_loras": memory}
        spec = {"name": profile.engine.name, **({"version": profile.requested} if profile.requested else {}), **limits}
        text = yaml.dump(
            {**document, "engine": spec, "adapters": [written[name] for name in one.adapters]},
            Dumper=dumper,
            sort_keys=False,
            allow_unicode=True,
        )
        words = (flags.enable, flags.rank, str(one.max_lora_rank), flags.slots, str(slots))
        words = (*words, flags.memory, str(memory), *((flags.strict,) if flags.strict else ()))
        found.append(ServerEntry(number, one, memory, words, text))
    return found


def _moved(adapter_set: "AdapterSet", home: Path, folder: Path) -> dict[str, Any]:
    """A manifest as it is written, with its relative paths from ``home`` as seen from ``folder``."""
    document, way = adapter_set.written, os.path.relpath(home, folder)

    def path(text: str) -> str:
        moved = Path(os.path.normpath(f"{way}/{text}")).as_posix()
        return text if Path(text).is_absolute() or text.startswith("~") else moved if moved[0] == "." else f"./{moved}"

    def with_files(entry: Mapping[str, Any]) -> dict[str, Any]:
        lists = {key: [path(file) for file in entry[key]] for key in POLICY_FILES if entry.get(key)}
        return {**entry, **lists, **({TRUST: path(entry[TRUST])} if entry.get(TRUST) else {})}

    policy = dict(document.get("policy") or {})
    policy |= {key: [with_files(one) for one in policy[key]] for key in POLICY_KEYS if policy.get(key)}
    adapters = []
    for entry, raw in zip(adapter_set.adapters, document["adapters"], strict=True):
        local = {"source": path(raw["source"])} if entry.source.scheme == "file" and ":" not in raw["source"] else {}
        adapters.append(raw | local | ({"signature": path(raw["signature"])} if raw.get("signature") else {}))
    base = adapter_set.base
    local_base = base is not None and base.scheme == "file" and ":" not in document["base"]
    moved = {"base": path(document["base"])} if local_base else {}
    return {**document, **moved, **({"policy": policy} if policy else {}), "adapters": adapters}


def _write_manifests(folder: Path, entries: Sequence[ServerEntry]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"--to {folder} cannot be created: {error.strerror}"
        raise MachineError(reason, hint="check the path of the folder") from error
    for one in entries:
        if one.manifest:
            write(one.manifest, folder / f"server-{one.server}.yaml")
