"""``lora-cli warm``: fetch, validate, load and prove adapters in a process that owns the device."""

import time
from collections.abc import Mapping
from pathlib import Path

import typer

from lora_cli.cli import options, warm_options
from lora_cli.cli.lineup import Lineup, limits, lineup, reaching, sharded
from lora_cli.cli.output import Format, drawn, writable, write
from lora_cli.cli.sizes import size_of
from lora_cli.cli.termination import termination_log
from lora_cli.cli.warm_endpoints import Targets, kind_of, warm_engines
from lora_cli.cli.warm_once import Once, prove_once
from lora_cli.cli.warm_serve import Serve, warm_serve
from lora_cli.cli.warm_tier import Copies
from lora_cli.cli.warming import Device, Eviction, Forward, Run
from lora_cli.endpoint.address import Address, is_host
from lora_cli.endpoint.client import Endpoint
from lora_cli.errors import EndpointError, UsageError
from lora_cli.settings import Settings

STOP_S = 30.0
POLL_S = 0.05

EXAMPLES = (
    "lora-cli warm -f set.yaml --once",
    "lora-cli warm acme/sql --base acme/llama-3-8b --once --prompt 'List all users'",
    "lora-cli warm -f set.yaml --serve --port 8321",
    "lora-cli warm -f set.yaml --endpoint http://127.0.0.1:8000 --engine vllm",
)


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: options.Base = "",
    policy: options.PolicyFile = None,
    shard: options.Shard = None,
    once: warm_options.Once = False,
    serve: warm_options.Serve = False,
    status: warm_options.Status = False,
    stop: warm_options.Stop = False,
    endpoint: warm_options.Endpoints = None,
    engine: warm_options.Engine = "",
    engine_path: warm_options.EnginePath = None,
    prune: warm_options.Prune = False,
    prove: warm_options.Prove = True,
    wait: warm_options.Wait = "5m",
    watch: warm_options.Watch = False,
    tp: warm_options.Tp = 1,
    host: warm_options.Host = "127.0.0.1",
    port: warm_options.Port = 8321,
    uds: warm_options.Uds = None,
    api_key: warm_options.ApiKey = "",
    root: warm_options.Root = None,
    load_timeout: warm_options.LoadTimeout = "10m",
    max_loras: warm_options.MaxLoras = None,
    max_cpu_loras: warm_options.MaxCpuLoras = None,
    max_cpu_bytes: warm_options.MaxCpuBytes = None,
    max_lora_rank: warm_options.MaxLoraRank = None,
    device: warm_options.OnDevice = Device.AUTO,
    forward: warm_options.ForwardOf = Forward.MODULES,
    eviction: warm_options.EvictionBy = Eviction.ADAPTIVE,
    tier: warm_options.Tier = "",
    prompt: warm_options.Prompt = "",
    max_tokens: warm_options.MaxTokens = 40,
    residency: warm_options.Residency = False,
    ready_file: warm_options.ReadyFile = None,
    metrics_file: warm_options.MetricsFile = None,
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """Load adapters into a warm process or running engines, and prove that they work."""
    settings: Settings = ctx.obj
    modes = {"--once": once, "--serve": serve, "--status": status, "--stop": stop, "--endpoint": bool(endpoint)}
    _check_mode([flag for flag, is_given in modes.items() if is_given])
    _check_flags({"--prompt": prompt, "--residency": residency}, once, "for --once")
    left = {"--tier": tier, "--ready-file": ready_file, "--metrics-file": metrics_file}
    _check_flags(left, once or serve, "for --once and --serve")
    _check_flags({"--watch": watch}, bool(endpoint and manifest), "for --endpoint with a manifest (-f)")
    if prompt and forward is not Forward.MODEL:
        raise UsageError("--prompt needs the whole model", hint="--forward model")
    if status or stop:
        with _endpoint(host, port, uds, api_key) as server:
            write(_stop(server) if stop else _status(server, output_format))
        return
    for file in (ready_file, metrics_file):
        if file is not None:
            writable(file)
    may_be_empty = serve and bool(root or policy)

    def named() -> tuple[Lineup, Settings]:
        asked = lineup(manifest, refs or [], base, "warm", "warm", checkpoint, may_be_empty=may_be_empty)
        return sharded(asked, shard), reaching(settings, asked.manifest, policy)

    with termination_log():
        asked, reached = named()
        if endpoint:
            kind, token = kind_of(engine, asked), api_key.strip()
            targets = Targets(endpoint, kind, engine_path or [], prune, prove, wait, token, tp, max_lora_rank)
            raise typer.Exit(warm_engines(targets, named, manifest if watch else None, output_format))
        cpu_bytes = size_of(max_cpu_bytes, "--max-cpu-bytes")
        most = limits(asked, max_loras, max_cpu_loras, max_lora_rank, more_may_come=serve, max_cpu_bytes=cpu_bytes)
        run = Run(most, device, forward, eviction, Copies(tier, asked.items) if tier else None)
        if not serve:
            what = Once(prompt, max_tokens, residency, ready_file, metrics_file)
            raise typer.Exit(prove_once(asked, run, what, output_format, reached))
        server = _endpoint(host, port, uds, api_key)
        warm_serve(asked, run, Serve(server, root or [], load_timeout, ready_file, metrics_file), reached)


def _check_mode(given: list[str]) -> None:
    """Raises ``UsageError`` unless exactly one is given."""
    if not given:
        raise UsageError(
            "warm has nothing to do",
            hint="--once proves all adapters and ends, --serve stays up, --endpoint URL warms a running engine; "
            "--status and --stop ask our own server",
        )
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="leave all but one out")


def _check_flags(given: Mapping[str, object], fits: bool, where: str) -> None:
    """Raises ``UsageError`` for a flag that would have no effect."""
    for flag, value in given.items():
        if value and not fits:
            raise UsageError(f"{flag} is {where}", hint="leave one of them out")


def _endpoint(host: str, port: int, uds: Path | None, api_key: str) -> Endpoint:
    if not is_host(host):
        raise UsageError(f"--host {host!r} is no name of a host", hint="--host 127.0.0.1")
    return Endpoint(Address(host, port, uds), api_key.strip())


def _status(server: Endpoint, output_format: Format) -> str:
    """What a running server says of itself. Raises ``EndpointError``."""
    status = server.get("/v1/status")
    if not isinstance(status, dict) or status.get("schema") != "lora_cli/status/1":
        raise EndpointError(f"{server.address} is no lora-cli server", hint="--host, --port or --uds name another")
    if output_format is Format.JSON:
        from lora_cli.render.json import encoded

        return encoded(status)
    from lora_cli.render.terminal_warm import status_parts

    return drawn(status_parts(status))


def _stop(server: Endpoint) -> str:
    """End a running server, and wait until it is gone. Raises ``EndpointError``."""
    server.request("POST", "/v1/stop")
    until = time.monotonic() + STOP_S
    while server.listens():
        if time.monotonic() > until:
            raise EndpointError(f"{server.address} still answers after {STOP_S:g} s", hint="end its process")
        time.sleep(POLL_S)
    return f"stopped the server at {server.address}\n"
