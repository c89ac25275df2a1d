"""``lora-cli warm``: adapters in running engines, in a server of our own, or in this process, each with a proof."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_cli.cli import options
from lora_cli.cli.options import OUTPUT, in_shard, option
from lora_cli.cli.output import Format, check_writable, inform, remove_ready_file, termination_log, write_result
from lora_cli.endpoint.address import Address, parse_address
from lora_cli.endpoint.client import Endpoint, Refusal
from lora_cli.errors import EndpointError, UsageError
from lora_cli.inputs import (
    Inputs,
    apply_policies,
    read_inputs,
    unlocked_warning,
)
from lora_cli.judging.base_model import infer_base
from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import API_KEY, Settings
from lora_cli.warm.plan import Device, Forward

MODE = "Mode (default: prove all adapters once, and exit)"
SERVER = "Server (--serve, --status)"
ENGINES = "Running engines (--endpoint)"
MEMORY = "Device and memory"

EXAMPLES = (
    "lora-cli warm -f set.yaml --endpoint http://127.0.0.1:8000 --engine vllm",
    "lora-cli warm -f set.yaml",
    "lora-cli warm acme/sql --base acme/llama-3-8b --prompt 'List all users'",
    "lora-cli warm -f set.yaml --serve --listen 127.0.0.1:8321",
)

Several = list[str] | None


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    base: options.Base = "",
    policy: options.PolicyFile = None,
    shard: options.Shard = None,
    endpoint: Annotated[
        Several, option("--endpoint URL", "Load the adapters into this engine; may be repeated.", ..., ENGINES)
    ] = None,
    serve: Annotated[bool, option("--serve", "Run as an HTTP server.", ..., MODE)] = False,
    status: Annotated[bool, option("--status", "Show the state of a running server.", ..., MODE)] = False,
    engine: Annotated[
        str,
        option(
            "--engine NAME[@VERSION]",
            "Engine at the endpoint: vllm, sglang or lora-cli.",
            ...,
            ENGINES,
            autocompletion=lambda: ["vllm", "sglang", "lora-cli"],
        ),
    ] = "",
    engine_path: Annotated[
        Several,
        option(
            "--engine-path FROM=TO", "Path TO in the engine of the local folder FROM; may be repeated.", ..., ENGINES
        ),
    ] = None,
    prune: Annotated[
        bool,
        option("--prune", "Unload adapters that are not in the manifest, or not among the REFs.", ..., ENGINES),
    ] = False,
    allow_unload: Annotated[
        bool,
        option(
            "--allow-unload", "Also unload and replace adapters in engines with known unloading bugs.", ..., ENGINES
        ),
    ] = False,
    no_prove: Annotated[
        bool, option("--no-prove", "Do not check that each adapter changes the engine's output.", ..., ENGINES)
    ] = False,
    watch: Annotated[
        bool,
        option(
            "--watch",
            "Keep running, and load again when the manifest changes or the engine restarts.",
            ...,
            ENGINES,
        ),
    ] = False,
    listen: Annotated[
        str, option("--listen ADDRESS", "HOST:PORT, or unix:PATH for a socket of this user alone.", ..., SERVER)
    ] = str(Address()).removeprefix("http://"),
    root: Annotated[
        Several,
        option(
            "--root DIRECTORY",
            "Allow clients to load adapters from folders below this one; may be repeated.",
            ...,
            SERVER,
        ),
    ] = None,
    max_loras: Annotated[
        int | None, option("--max-loras", "Slots: number of adapters on the device.", ..., MEMORY, min=1)
    ] = None,
    max_cpu_loras: Annotated[
        int | None,
        option(
            "--max-cpu-loras",
            "Number of adapters in memory.",
            ...,
            MEMORY,
            min=1,
            show_default="32 with --serve, else one each, at most 32",
        ),
    ] = None,
    max_lora_rank: Annotated[
        int | None,
        option("--max-lora-rank", "Maximum rank of an adapter, or with --endpoint of the engine.", ..., MEMORY, min=1),
    ] = None,
    device: Annotated[Device, option("--device", "Device of the slots.", ..., MEMORY)] = "auto",
    forward: Annotated[
        Forward,
        option("--forward", "Verify adapters on the modules only, or also on the whole model.", ..., MEMORY),
    ] = "modules",
    prompt: Annotated[
        str, option("--prompt TEXT", "Run this prompt without and with each adapter, on the whole model.", ..., MODE)
    ] = "",
    ready_file: Annotated[
        Path | None,
        option(
            "--ready-file FILE",
            "File that exists while the server is ready, or when all adapters were proved or tried (--endpoint).",
            ...,
            OUTPUT,
        ),
    ] = None,
    metrics_file: Annotated[
        Path | None, option("--metrics-file FILE", "Write Prometheus metrics to this file.", ..., OUTPUT)
    ] = None,
    output_format: options.OutputFormat = "human",
) -> None:
    """Load adapters into running engines or into a process of our own, and prove that they work."""
    settings: Settings = ctx.obj
    modes = {"endpoint": endpoint, "serve": serve, "status": status}
    named = [f"--{mode}" for mode, given in modes.items() if given]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} cannot be used together", hint="use only one of them")
    own = {"prompt": prompt if serve or endpoint else "", "metrics_file": metrics_file if endpoint else None}
    engines = {"engine": engine, "engine_path": engine_path, "prune": prune, "allow_unload": allow_unload}
    engines |= {"no_prove": no_prove, "watch": watch}
    for flag, value in {**own, **({} if endpoint else engines)}.items():
        if value and ctx.get_parameter_source(flag).name == "COMMANDLINE":  # type: ignore[union-attr]
            where = "for --endpoint" if flag in engines else "for adapters in a process of our own"
            raise UsageError(f"--{flag.replace('_', '-')} is {where}", hint="remove it")
    if watch and manifest is None:
        raise UsageError("--watch is for --endpoint with a manifest", hint="set it with -f")
    if prune and shard is not None and manifest is None:
        raise UsageError("--prune would unload the adapters of other shards", hint="use a manifest: -f FILE")
    token = os.environ.get(API_KEY, "").strip()
    if status:
        return _status(Endpoint(parse_address(listen), token), output_format)
    for file in (ready_file, metrics_file):
        check_writable(file)
    remove_ready_file(ready_file)
    found: list[str | AdapterRef] = []  # the base that is inferred from configs is looked up once
    known_warnings = [""]  # no warning, and the last one: they are not repeated

    def load_inputs() -> tuple[Inputs, Settings]:
        may_be_empty = serve and bool(root or policy)
        inputs = read_inputs(manifest, refs or [], base, "warm", may_be_empty=may_be_empty)
        inputs = replace(inputs, items=in_shard(inputs.items, shard, lambda item: item.name))
        reached = apply_policies(settings, inputs.manifest, policy)
        warning = unlocked_warning(inputs, without_lock=True)
        if warning not in known_warnings:
            inform(warning, settings)
        known_warnings[1:] = [warning]
        found[:] = [inputs.base or next(iter(found), "") or _inferred_base(inputs, reached)]
        return replace(inputs, base=found[0]), reached

    with termination_log():
        inputs, reached = load_inputs()
        if endpoint:
            from lora_cli.cli.warm_endpoint import EndpointOptions, warm_engines

            kind = engine or (inputs.engine.name if inputs.engine is not None else "")
            if not kind:
                raise UsageError(
                    "--endpoint needs the engine that runs there", hint="--engine vllm, sglang or lora-cli"
                )
            chosen = EndpointOptions(endpoint, kind, engine_path or (), prune, allow_unload, not no_prove, token)
            chosen = replace(chosen, max_lora_rank=max_lora_rank, ready_file=ready_file, output_format=output_format)
            raise typer.Exit(warm_engines(chosen, load_inputs, manifest if watch else None))
        from lora_cli.cli.warm_process import process_plan, prove_once, serve_adapters

        plan = process_plan(
            inputs,
            (max_loras, max_cpu_loras, max_lora_rank),
            device,
            "model" if prompt else forward,
            reached,
            more_may_come=serve,
        )
        if serve:
            files = ready_file, metrics_file
            return serve_adapters(inputs, plan, parse_address(listen), token, root or (), files, reached)
        code = prove_once(inputs, plan, prompt, (ready_file, metrics_file), output_format, reached)
        raise typer.Exit(code)


def _inferred_base(inputs: Inputs, settings: Settings) -> str:
    base = infer_base(inputs.to_validate(settings), settings, "warm")
    inform(f"base: {base} (from the adapter's config)", settings)
    return base


def _status(server: Endpoint, output_format: Format) -> None:
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
