"""``lora-cli warm``: fetch, validate, load and prove adapters in a process that owns the device."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.cli import engine_options, options, typer
from lora_cli.cli import warm_options as warm
from lora_cli.cli.lineup import Lineup, limits, lineup, reaching, sharded
from lora_cli.cli.output import Format, writable, write
from lora_cli.cli.sizes import size_of
from lora_cli.cli.termination import note, termination_log
from lora_cli.cli.warming import Device, Eviction, Forward, Run
from lora_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lora_cli.cli.warm_endpoints import Targets
    from lora_cli.cli.warm_once import Once
    from lora_cli.cli.warm_tier import Copies
    from lora_cli.endpoint.client import Endpoint
    from lora_cli.settings import Settings


def command(
    ctx: typer.Context,
    refs: options.Refs = None,
    manifest: options.Manifest = None,
    checkpoint: options.Checkpoint = "",
    base: options.Base = "",
    policy: options.PolicyFile = None,
    once: warm.Once = False,
    serve: warm.Serve = False,
    status: warm.Status = False,
    stop: warm.Stop = False,
    endpoint: warm.Endpoints = None,
    engine: warm.Engine = "",
    engine_path: warm.EnginePath = None,
    prune: warm.Prune = False,
    prove: warm.Prove = True,
    wait: warm.Wait = "5m",
    watch: warm.Watch = False,
    tp: engine_options.Tp = 1,
    shard: options.ShardOf = None,
    host: warm.Host = "127.0.0.1",
    port: warm.Port = 8321,
    uds: warm.Uds = None,
    api_key: warm.ApiKey = "",
    root: warm.Root = None,
    load_timeout: warm.LoadTimeout = "10m",
    max_loras: warm.MaxLoras = None,
    max_cpu_loras: warm.MaxCpuLoras = None,
    max_cpu_bytes: warm.MaxCpuBytes = None,
    max_lora_rank: warm.MaxLoraRank = None,
    device: warm.DeviceOption = Device.AUTO,
    forward: warm.ForwardOption = Forward.MODULES,
    eviction: warm.EvictionOption = Eviction.ADAPTIVE,
    prompt: warm.Prompt = "",
    max_tokens: warm.MaxTokens = 40,
    residency: warm.Residency = False,
    tier: warm.Tier = "",
    ready_file: warm.ReadyFile = None,
    metrics_file: warm.MetricsFile = None,
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """Load adapters into a warm process and prove that they work; once, or for a server that stays up."""
    verbs = {"--once": once, "--serve": serve, "--status": status, "--stop": stop, "--endpoint": bool(endpoint)}
    _check_verb(verbs)
    _check_flags({"--prompt": prompt, "--residency": residency}, once, "for --once")
    _check_flags({"--tier": tier}, once or serve, "for --once and --serve")
    _check_flags({"--watch": watch}, bool(endpoint) and manifest is not None, "for --endpoint with a manifest (-f)")
    if prompt and forward is not Forward.MODEL:
        raise UsageError("--prompt needs the whole model", hint="--forward model")
    if status or stop:
        with _endpoint(host, port, uds, api_key) as server:
            _ask(server, output_format, stop=stop)
        return
    for file in (ready_file, metrics_file):
        if file is not None:
            writable(file)
    named = partial(
        _named,
        ctx.obj,
        manifest,
        refs or [],
        base,
        policy,
        checkpoint,
        shard,
        may_be_empty=serve and bool(root or policy),
    )
    with termination_log():
        asked, settings = named()
        if endpoint:
            from lora_cli.cli.warm_endpoints import Targets, kind_of

            kind, token, paths = kind_of(engine, asked), api_key.strip(), engine_path or []
            targets = Targets(endpoint, kind, paths, prune, prove, wait, token, tp, max_lora_rank)
            raise typer.Exit(_warm_endpoints(targets, named, manifest if watch else None, output_format))
        cpu_bytes = size_of(max_cpu_bytes, "--max-cpu-bytes")
        most = limits(asked, max_loras, max_cpu_loras, max_lora_rank, more_may_come=serve, max_cpu_bytes=cpu_bytes)
        run = Run(most, device, forward, eviction, _copies(tier, asked))
        if serve:
            from lora_cli.cli.warm_serve import Serve, warm_serve

            at = _endpoint(host, port, uds, api_key)
            warm_serve(asked, run, Serve(at, root or [], load_timeout, ready_file, metrics_file), settings)
            return
        from lora_cli.cli.warm_once import Once

        _once(asked, run, Once(prompt, max_tokens, residency), metrics_file, output_format, settings)


def _named(
    settings: "Settings",
    manifest: Path | None,
    refs: list[str],
    base: str,
    policy: Path | None,
    checkpoint: str,
    shard: str | None,
    *,
    may_be_empty: bool,
) -> "tuple[Lineup, Settings]":
    """What is asked for now, and how it is reached; again and again with ``--watch``."""
    asked = lineup(manifest, refs, base, "warm", "warm", checkpoint, may_be_empty=may_be_empty)
    return sharded(asked, shard), reaching(settings, asked.manifest, policy)


def _ask(server: "Endpoint", output_format: Format, *, stop: bool) -> None:
    """Tell what a server that runs holds, or end it."""
    from lora_cli.cli.warm_status import show_status, stop_server

    write(stop_server(server) if stop else show_status(server, output_format))


def _warm_endpoints(
    targets: "Targets",
    named: "Callable[[], tuple[Lineup, Settings]]",
    watched: Path | None,
    output_format: Format,
) -> int:
    """Warm running engines, once or for as long as the manifest is ``watched``; gives the exit code."""
    from lora_cli.cli.warm_endpoints import warm_endpoints
    from lora_cli.cli.watching import warm_and_tell, watch

    if watched is not None:
        return watch(watched, named, targets, output_format)
    asked, settings = named()
    return warm_and_tell(warm_endpoints(asked, targets, settings), output_format)


def _check_flags(given: dict[str, object], fits: bool, where: str) -> None:
    """Raises ``UsageError`` for a flag that would be left out in silence."""
    for flag, value in given.items():
        if value and not fits:
            raise UsageError(f"{flag} is {where}", hint="leave one of them out")


def _check_verb(given: dict[str, bool]) -> None:
    """Raises ``UsageError`` unless exactly one is wanted."""
    wanted = [flag for flag, is_given in given.items() if is_given]
    if not wanted:
        raise UsageError(
            "warm has nothing to do",
            hint="--once proves all adapters and ends, --serve stays up, --endpoint URL warms a running engine; "
            "--status and --stop ask our own server",
        )
    if len(wanted) > 1:
        raise UsageError(f"{' and '.join(wanted)} exclude each other", hint="leave all but one out")


def _copies(tier: str, asked: Lineup) -> "Copies | None":
    """What copies adapters into memory, if that is wanted. Raises ``UsageError``."""
    if not tier:
        return None
    from lora_cli.cli.warm_tier import Copies

    return Copies(tier, asked.items)


def _endpoint(host: str, port: int, uds: Path | None, api_key: str) -> "Endpoint":
    from lora_cli.endpoint.address import Address
    from lora_cli.endpoint.client import Endpoint

    return Endpoint(Address(host, port, uds), api_key.strip())


def _once(
    asked: Lineup,
    run: Run,
    once: "Once",
    metrics_file: Path | None,
    output_format: Format,
    settings: "Settings",
) -> None:
    """Report all, and end with the largest code."""
    from lora_cli.cli.warm_once import rendered, warm_once, write_metrics

    reports, answers = warm_once(asked, run, once, settings)
    write(rendered(reports, answers, output_format))
    if metrics_file is not None:
        write_metrics(metrics_file, reports)
    failed = [report for report in reports if report.error]
    if failed:
        note("\n".join(f"{report.name}: {report.stage}: {report.error}" for report in failed))
    raise typer.Exit(max((report.exit_code for report in reports), default=0))
