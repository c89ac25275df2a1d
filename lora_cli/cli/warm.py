"""``lora-cli warm``: adapters in running engines, in a server of our own, or in this process, each with a proof."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from lora_cli.cli import options
from lora_cli.cli.options import in_shard, option, outputs
from lora_cli.cli.output import Format, check_writable, inform, remove_ready_file, write_result
from lora_cli.endpoint.address import Address, parse_address
from lora_cli.endpoint.client import Endpoint, Refusal
from lora_cli.errors import EndpointError, UsageError
from lora_cli.inputs import Inputs, apply_policies, read_inputs, slot_limits, unlocked_warning
from lora_cli.judging.inspection import infer_base
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.request import Request
from lora_cli.settings import API_KEY, Settings
from lora_cli.text import by_key
from lora_cli.warm.plan import Device, Forward

mode = partial(option, default=False, panel="Mode (default: prove all adapters once, and exit)")
engines = partial(option, default=False, panel="Running engines (--endpoint)")
server = partial(option, default=None, panel="Server (--serve, --status)")
memory = partial(option, default=None, panel="Device and memory")
output = partial(outputs, default=None)

EXAMPLES = (
    "lora-cli warm -f set.yaml --endpoint http://127.0.0.1:8000 --engine vllm",
    "lora-cli warm -f set.yaml",
    "lora-cli warm -f set.yaml --serve --listen 127.0.0.1:8321",
)

OF_ENGINES = ("engine", "engine_path", "prune", "allow_unload", "no_prove", "watch")
LISTEN = str(Address()).removeprefix("http://")
MOST_IN_MEMORY = "32 with --serve, else one each, at most 32"
Several = list[str] | None


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    base: options.Base = "",
    policy: options.PolicyFile = None,
    shard: options.Shard = None,
    endpoint: Several = engines("--endpoint URL", "Load the adapters into this engine; may be repeated.", default=None),
    serve: bool = mode("--serve", "Run as an HTTP server."),
    status: bool = mode("--status", "Show the state of a running server."),
    engine: str = engines("--engine NAME[@VERSION]", "Engine there: vllm or sglang (default: detected).", default=""),
    engine_path: Several = engines(
        "--engine-path FROM=TO", "Path TO in the engine of the local folder FROM; may be repeated.", default=None
    ),
    prune: bool = engines("--prune", "Unload adapters that are not in the manifest, or not among the REFs."),
    allow_unload: bool = engines("--allow-unload", "Unload and replace also in engines with known bugs in that."),
    no_prove: bool = engines("--no-prove", "Do not check that each adapter changes the engine's output."),
    watch: bool = engines("--watch", "Keep running, and load again when the manifest changes or the engine restarts."),
    listen: str = server("--listen ADDRESS", "HOST:PORT, or unix:PATH for this user alone.", default=LISTEN),
    root: list[Path] | None = server(
        "--root DIRECTORY",
        "Let clients load adapters below this folder; may be repeated.",
        exists=True,
        file_okay=False,
    ),
    max_loras: int | None = memory("--max-loras", "Slots: number of adapters on the device.", min=1),
    max_cpu_loras: int | None = memory(
        "--max-cpu-loras", "Number of adapters in memory.", min=1, show_default=MOST_IN_MEMORY
    ),
    max_lora_rank: int | None = memory("--max-lora-rank", "Largest rank of an adapter, or of the engine's.", min=1),
    device: Device = memory("--device", "Device of the slots.", default="auto"),
    forward: Forward = memory("--forward", "Verify on the modules, or also on the whole model.", default="modules"),
    ready_file: Path | None = output(
        "--ready-file FILE",
        "File that exists while the server is ready, or once all adapters were proved or tried.",
        path_type=Path,
    ),
    metrics_file: Path | None = output("--metrics-file FILE", "Write Prometheus metrics of a single run to this file."),
    output_format: options.OutputFormat = "human",
) -> None:
    """Load adapters into running engines or into a process of our own, and prove that they work."""
    _refuse_conflicts(ctx)
    token = os.environ.get(API_KEY, "").strip()
    if status:
        return _show_status(Endpoint(parse_address(listen), token), output_format)
    for file in (ready_file, metrics_file):
        check_writable(file)
    remove_ready_file(ready_file)
    load_inputs = partial(_load_inputs, ctx.obj, ctx.params, [], {""})
    if endpoint:
        from lora_cli.cli.warm_endpoint import warm_engines

        raise typer.Exit(warm_engines(ctx.params, token, load_inputs))
    inputs, settings = load_inputs()
    from lora_cli.cli.warm_process import process_plan, prove_once, serve_adapters

    slots = slot_limits(inputs, max_loras, max_cpu_loras, max_lora_rank, more_may_come=serve)
    plan = process_plan(inputs, slots, device, forward, settings, serve=serve)
    if serve:
        return serve_adapters(inputs, plan, parse_address(listen), token, root or (), ready_file, settings)
    raise typer.Exit(prove_once(inputs, plan, ready_file, metrics_file, output_format, settings))


def _refuse_conflicts(ctx: typer.Context) -> None:
    """Raises ``UsageError`` for options that would have no effect, or another one than it looks."""
    given: dict[str, Any] = ctx.params
    named = [f"--{word}" for word in ("endpoint", "serve", "status") if given[word]]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} cannot be used together", hint="use only one of them")
    idle = () if given["endpoint"] else OF_ENGINES
    for flag in ("metrics_file", *idle) if given["endpoint"] or given["serve"] else idle:
        if given[flag] and options.origin_of(ctx, flag) == "COMMANDLINE":
            where = "for --endpoint" if flag in OF_ENGINES else "for a run that proves all adapters once"
            raise UsageError(f"--{flag.replace('_', '-')} is {where}", hint="remove it")
    if given["watch"] and given["manifest"] is None:
        raise UsageError("--watch is for --endpoint with a manifest", hint="set it with -f")
    if given["prune"] and given["shard"] is not None and given["manifest"] is None:
        raise UsageError("--prune would unload the adapters of other shards", hint="use a manifest: -f FILE")


def _load_inputs(
    settings: Settings, given: dict[str, Any], inferred: list[str | AdapterRef], told: set[str]
) -> tuple[Inputs, Settings]:
    """The adapters to warm, and the settings with all policies.

    It is called again when the manifest changes: a base that is inferred from configs is looked up once, and what was
    ``told`` is not told again.
    """
    named, serve = given["endpoint"] or given["serve"], given["serve"]
    may_be_empty = serve and bool(given["root"] or given["policy"])
    inputs = read_inputs(given["manifest"], given["refs"] or [], given["base"], "warm", may_be_empty=may_be_empty)
    items = in_shard(inputs.items, given["shard"], lambda item: item.name)
    inputs = replace(inputs, items=_uniquely_named(items) if named else items)
    reached = apply_policies(settings, inputs.manifest, given["policy"])
    if (warning := unlocked_warning(inputs, without_lock=True)) not in told:
        told.add(warning)
        inform(warning, settings)
    if not inputs.base and not inferred:
        inferred.append(infer_base(inputs.to_validate(reached), reached, "warm"))
        inform(f"base: {inferred[0]} (from the adapter's config)", reached)
    return replace(inputs, base=inputs.base or inferred[0]), reached


def _show_status(server: Endpoint, output_format: Format) -> None:
    """Writes the status of a running server. Raises ``EndpointError``."""
    from lora_cli.reports.warm import human_status

    try:
        status: Any = server.get("/v1/status")
    except Refusal as error:
        if error.status != 404:
            raise
        status = None
    if not isinstance(status, dict) or status.get("schema") != "lora_cli/status/2":
        raise EndpointError(f"{server.address} is not a lora-cli server", hint="use --listen for another address")
    write_result(status, output_format, human_status(status))


def _uniquely_named(items: Sequence[Request]) -> tuple[Request, ...]:
    """The adapters with the model names of the API: the name in the manifest, or the last part of the REF.

    Raises:
        UsageError: two have the same name.
    """
    named = [replace(item, name=item.name.rstrip("/").rpartition("/")[2] or item.name) for item in items]
    for name, same in by_key((one.name, str(one.source)) for one in named).items():
        if len(same) > 1:
            raise UsageError(
                f"{' and '.join(same)} would have the same name {name}", hint="name them in a manifest: -f"
            )
    return tuple(named)
