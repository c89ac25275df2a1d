"""``lora-cli warm``: fetch, validate, load and prove adapters in a process that owns the device."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_cli.cli import options, warm_options
from lora_cli.cli.lineup import Lineup, limits, lineup, reaching, sharded
from lora_cli.cli.output import Format, writable, write
from lora_cli.cli.sizes import size_of
from lora_cli.cli.termination import note, termination_log
from lora_cli.cli.warm_options import Asking, Elsewhere, Holding, Leaving, Listening, Verb, Which
from lora_cli.cli.warming import Device, Eviction, Forward, Run
from lora_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lora_cli.cli.warm_endpoints import Targets
    from lora_cli.cli.warm_tier import Copies
    from lora_cli.endpoint.client import Endpoint
    from lora_cli.settings import Settings


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
    which = Which(refs, manifest, checkpoint, base, policy)
    verb = Verb(once=once, serve=serve, status=status, stop=stop)
    elsewhere = Elsewhere(endpoint, engine, engine_path, prune=prune, prove=prove, wait=wait, watch=watch, tp=tp)
    listening = Listening(host, port, uds, api_key, root, load_timeout)
    holding = Holding(max_loras, max_cpu_loras, max_cpu_bytes, max_lora_rank, device, forward, eviction)
    asking, leaving = Asking(prompt, max_tokens, residency=residency), Leaving(tier, ready_file, metrics_file)
    _check(which, verb, elsewhere, holding, asking, leaving)
    if verb.status or verb.stop:
        with _endpoint(listening) as server:
            _ask(server, output_format, stop=verb.stop)
        return
    for file in (leaving.ready_file, leaving.metrics_file):
        if file is not None:
            writable(file)
    may_be_empty = verb.serve and bool(listening.root or which.policy)
    named = partial(_named, ctx.obj, which, shard, may_be_empty=may_be_empty)
    with termination_log():
        asked, settings = named()
        if elsewhere.endpoint:
            targets = _targets(elsewhere, listening, holding, asked)
            watched = which.manifest if elsewhere.watch else None
            raise typer.Exit(_warm_endpoints(targets, named, watched, output_format))
        run = _run(asked, holding, leaving, more_may_come=verb.serve)
        if verb.serve:
            _serve(asked, run, listening, leaving, settings)
        else:
            _once(asked, run, asking, leaving, output_format, settings)


def _named(settings: "Settings", which: Which, shard: str | None, *, may_be_empty: bool) -> "tuple[Lineup, Settings]":
    """What is asked for now, and how it is reached; again and again with ``--watch``."""
    refs, manifest = which.refs or [], which.manifest
    asked = lineup(manifest, refs, which.base, "warm", "warm", which.checkpoint, may_be_empty=may_be_empty)
    return sharded(asked, shard), reaching(settings, asked.manifest, which.policy)


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


def _targets(elsewhere: Elsewhere, listening: Listening, holding: Holding, asked: Lineup) -> "Targets":
    """The running engines that are meant, and what they are to do. Raises ``UsageError``."""
    from lora_cli.cli.warm_endpoints import Targets, kind_of

    return Targets(
        endpoints=elsewhere.endpoint or [],
        engine=kind_of(elsewhere.engine, asked),
        paths=elsewhere.engine_path or [],
        prune=elsewhere.prune,
        prove=elsewhere.prove,
        wait=elsewhere.wait,
        token=listening.api_key.strip(),
        tp=elsewhere.tp,
        max_lora_rank=holding.max_lora_rank,
    )


def _check(which: Which, verb: Verb, elsewhere: Elsewhere, holding: Holding, asking: Asking, leaving: Leaving) -> None:
    """Raises ``UsageError`` for options that do not go together."""
    once, serve, at_engines = verb.once, verb.serve, bool(elsewhere.endpoint)
    _check_verb(
        {"--once": once, "--serve": serve, "--status": verb.status, "--stop": verb.stop, "--endpoint": at_engines}
    )
    _check_flags({"--prompt": asking.prompt, "--residency": asking.residency}, once, "for --once")
    left = {"--tier": leaving.tier, "--ready-file": leaving.ready_file, "--metrics-file": leaving.metrics_file}
    _check_flags(left, once or serve, "for --once and --serve")
    manifest_there = at_engines and which.manifest is not None
    _check_flags({"--watch": elsewhere.watch}, manifest_there, "for --endpoint with a manifest (-f)")
    if asking.prompt and holding.forward is not Forward.MODEL:
        raise UsageError("--prompt needs the whole model", hint="--forward model")


def _check_flags(given: "Mapping[str, object]", fits: bool, where: str) -> None:
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


def _run(asked: Lineup, holding: Holding, leaving: Leaving, *, more_may_come: bool) -> Run:
    """What the warm process is to do. Raises ``UsageError``."""
    most = limits(
        asked,
        holding.max_loras,
        holding.max_cpu_loras,
        holding.max_lora_rank,
        more_may_come=more_may_come,
        max_cpu_bytes=size_of(holding.max_cpu_bytes, "--max-cpu-bytes"),
    )
    return Run(most, holding.device, holding.forward, holding.eviction, _copies(leaving.tier, asked))


def _copies(tier: str, asked: Lineup) -> "Copies | None":
    """What copies adapters into memory, if that is wanted. Raises ``UsageError``."""
    if not tier:
        return None
    from lora_cli.cli.warm_tier import Copies

    return Copies(tier, asked.items)


def _endpoint(listening: Listening) -> "Endpoint":
    from lora_cli.endpoint.address import Address, is_host
    from lora_cli.endpoint.client import Endpoint

    if not is_host(listening.host):
        raise UsageError(f"--host {listening.host!r} is no name of a host", hint="--host 127.0.0.1")
    return Endpoint(Address(listening.host, listening.port, listening.uds), listening.api_key.strip())


def _serve(asked: Lineup, run: Run, listening: Listening, leaving: Leaving, settings: "Settings") -> None:
    """Answer over HTTP until it is told to stop."""
    from lora_cli.cli.warm_serve import Serve, warm_serve

    files = leaving.ready_file, leaving.metrics_file
    warm_serve(asked, run, Serve(_endpoint(listening), listening.root or [], listening.load_timeout, *files), settings)


def _once(
    asked: Lineup,
    run: Run,
    asking: Asking,
    leaving: Leaving,
    output_format: Format,
    settings: "Settings",
) -> None:
    """Report all, and end with the largest code; the ready file is there when that is 0."""
    from lora_cli.cli.warm_once import Once, not_ready, rendered, warm_once, write_metrics, write_ready

    if leaving.ready_file is not None:
        not_ready(leaving.ready_file)
    once = Once(asking.prompt, asking.max_tokens, asking.residency)
    reports, answers = warm_once(asked, run, once, settings)
    write(rendered(reports, answers, output_format))
    if leaving.metrics_file is not None:
        write_metrics(leaving.metrics_file, reports)
    failed = [report for report in reports if report.error]
    if failed:
        note("\n".join(f"{report.name}: {report.stage}: {report.error}" for report in failed))
    code = max((report.exit_code for report in reports), default=0)
    if leaving.ready_file is not None and code == 0:
        write_ready(leaving.ready_file, reports)
    raise typer.Exit(code)
