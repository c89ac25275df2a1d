"""``lora-cli warm``: fetch, validate, load and prove adapters in a process that owns the device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lora_cli.cli import engine_options, options, typer
from lora_cli.cli.lineup import Lineup, limits, lineup, reaching, sharded
from lora_cli.cli.output import Format, writable, write
from lora_cli.cli.termination import note, termination_log
from lora_cli.cli.warming import Device, Eviction, Forward, Run
from lora_cli.errors import UsageError

if TYPE_CHECKING:
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
    once: Annotated[bool, typer.Option("--once", help="Prove all, print a table, and end.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Stay up and answer over HTTP.")] = False,
    status: Annotated[bool, typer.Option("--status", help="What a server that runs holds.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End a server that runs.")] = False,
    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Warm this running server instead; several may be named.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(metavar="NAME[@VERSION]", help="What runs there: vllm, sglang or lora-cli.", show_default=False),
    ] = "",
    engine_path: Annotated[
        list[str] | None, typer.Option(metavar="FROM=TO", help="Where those servers see a folder of this machine.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Have them unload what is not named here.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Ask them whether each adapter does something.")
    ] = True,
    wait: Annotated[str, typer.Option(metavar="TIME", help="How long to wait until they are ready.")] = "5m",
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and do it again when the manifest changes.")] = False,
    tp: engine_options.Tp = 1,
    shard: options.ShardOf = None,
    host: Annotated[str, typer.Option(help="Where the server listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the server listens.")] = 8321,
    uds: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Listen at a Unix socket, for this user alone.")
    ] = None,
    api_key: Annotated[
        str, typer.Option(metavar="TOKEN", help="The bearer token of the API.", show_default=False)
    ] = "",
    root: Annotated[
        list[str] | None, typer.Option(metavar="DIRECTORY", help="Clients may load adapters from below it.")
    ] = None,
    load_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="With --serve: end a child that takes longer over one request.")
    ] = "10m",
    max_loras: Annotated[int | None, typer.Option(min=1, help="Slots: adapters on the device at once.")] = None,
    max_cpu_loras: Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once.")] = None,
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot takes.")] = None,
    device: Annotated[Device, typer.Option(help="What owns the slots.")] = Device.AUTO,
    forward: Annotated[Forward, typer.Option(help="Prove modules, or run the whole model too.")] = Forward.MODULES,
    eviction: Annotated[
        Eviction, typer.Option(help="Who leaves slots or memory that are full; adaptive follows whichever does best.")
    ] = Eviction.ADAPTIVE,
    prompt: Annotated[str, typer.Option(help="Answer this without and with each adapter.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="The longest answer.")] = 40,
    residency: Annotated[
        bool, typer.Option("--residency", help="With --once: what of each adapter's files is in the page cache.")
    ] = False,
    tier: Annotated[
        str, typer.Option(metavar="tmpfs:DIRECTORY", help="Copy each into DIRECTORY/NAME too, which is memory.")
    ] = "",
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --serve: there while the server is ready.")
    ] = None,
    metrics_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Write Prometheus metrics there.")] = None,
    output_format: options.OutputFormat = Format.HUMAN,
) -> None:
    """Load adapters into a warm process and prove that they work; once, or for a server that stays up."""
    verbs = {"--once": once, "--serve": serve, "--status": status, "--stop": stop, "--endpoint": bool(endpoint)}
    _check_verb(verbs)
    if status or stop:
        from lora_cli.cli.warm_status import show_status, stop_server

        with _endpoint(host, port, uds, api_key) as server:
            write(show_status(server, output_format) if status else stop_server(server))
        return
    for flag, given in (("--prompt", bool(prompt)), ("--residency", residency)):
        if given and not once:
            raise UsageError(f"{flag} is for --once", hint="leave one of them out")
    if tier and endpoint:
        raise UsageError("--tier is for --once and --serve", hint="leave one of them out")
    if prompt and forward is not Forward.MODEL:
        raise UsageError("--prompt needs the whole model", hint="--forward model")
    for file in (ready_file, metrics_file):
        if file is not None:
            writable(file)
    with termination_log():

        def named() -> "tuple[Lineup, Settings]":
            may_be_empty = serve and bool(root or policy)
            asked = lineup(manifest, refs or [], base, "warm", "warm", checkpoint, may_be_empty=may_be_empty)
            return sharded(asked, shard), reaching(ctx.obj, asked.manifest, policy)

        asked, settings = named()
        if endpoint:
            from lora_cli.cli.warm_endpoints import Targets, kind_of, warm_endpoints
            from lora_cli.cli.watching import warm_and_tell
            from lora_cli.cli.watching import watch as watch_endpoints

            kind, token, paths = kind_of(engine, asked), api_key.strip(), engine_path or []
            targets = Targets(endpoint, kind, paths, prune, prove, wait, token, tp, max_lora_rank)
            if watch:
                raise typer.Exit(watch_endpoints(manifest, named, targets, output_format))
            raise typer.Exit(warm_and_tell(warm_endpoints(asked, targets, settings), output_format))
        most = limits(asked, max_loras, max_cpu_loras, max_lora_rank, more_may_come=serve)
        run = Run(most, device, forward, eviction, _copies(tier, asked))
        if serve:
            from lora_cli.cli.warm_serve import Serve, warm_serve

            at = _endpoint(host, port, uds, api_key)
            warm_serve(asked, run, Serve(at, root or [], load_timeout, ready_file, metrics_file), settings)
        else:
            from lora_cli.cli.warm_once import Once

            _once(asked, run, Once(prompt, max_tokens, residency), metrics_file, output_format, settings)


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
