"""The options of ``lora-cli warm``, by what they are about, each with its help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lora_cli.cli import engine_options, options, typer
from lora_cli.cli.warming import Device, Eviction, Forward


@dataclass(frozen=True, slots=True)
class Which:
    """Which adapters are meant, of which base, and what is allowed of them."""

    refs: options.Refs = None
    manifest: options.Manifest = None
    checkpoint: options.Checkpoint = ""
    base: options.Base = ""
    policy: options.PolicyFile = None


@dataclass(frozen=True, slots=True)
class Verb:
    """What is to be done: one of these, or ``--endpoint``."""

    once: Annotated[bool, typer.Option("--once", help="Prove all, print a table, and end.")] = False
    serve: Annotated[bool, typer.Option("--serve", help="Stay up and answer over HTTP.")] = False
    status: Annotated[bool, typer.Option("--status", help="What a server that runs holds.")] = False
    stop: Annotated[bool, typer.Option("--stop", help="End a server that runs.")] = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Running engines, and what they are to do."""

    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Warm this running server instead; several may be named.")
    ] = None
    engine: Annotated[
        str,
        typer.Option(metavar="NAME[@VERSION]", help="What runs there: vllm, sglang or lora-cli.", show_default=False),
    ] = ""
    engine_path: Annotated[
        list[str] | None, typer.Option(metavar="FROM=TO", help="Where those servers see a folder of this machine.")
    ] = None
    prune: Annotated[bool, typer.Option("--prune", help="Have them unload what is not named here.")] = False
    prove: Annotated[bool, typer.Option("--prove/--no-prove", help="Ask them whether each adapter does something.")] = (
        True
    )
    wait: Annotated[str, typer.Option(metavar="TIME", help="How long to wait until they are ready.")] = "5m"
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and do it again when the manifest changes.")] = False
    tp: engine_options.Tp = 1


@dataclass(frozen=True, slots=True)
class Listening:
    """Where our own server is, and who may ask it for what."""

    host: Annotated[str, typer.Option(help="Where the server listens.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the server listens.")] = 8321
    uds: Annotated[Path | None, typer.Option(metavar="FILE", help="Listen at a Unix socket, for this user alone.")] = (
        None
    )
    api_key: Annotated[str, typer.Option(metavar="TOKEN", help="The bearer token of the API.", show_default=False)] = ""
    root: Annotated[
        list[str] | None, typer.Option(metavar="DIRECTORY", help="Clients may load adapters from below it.")
    ] = None
    load_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="With --serve: end a child that takes longer over one request.")
    ] = "10m"


@dataclass(frozen=True, slots=True)
class Holding:
    """How many adapters the device and memory hold, and who leaves them."""

    max_loras: Annotated[int | None, typer.Option(min=1, help="Slots: adapters on the device at once.")] = None
    max_cpu_loras: Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once.")] = None
    max_cpu_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes that adapters in memory take at most: 8GiB.", show_default=False),
    ] = None
    max_lora_rank: Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot takes.")] = None
    device: Annotated[Device, typer.Option(help="What owns the slots.")] = Device.AUTO
    forward: Annotated[Forward, typer.Option(help="Prove modules, or run the whole model too.")] = Forward.MODULES
    eviction: Annotated[
        Eviction, typer.Option(help="Who leaves slots or memory that are full; adaptive follows whichever does best.")
    ] = Eviction.ADAPTIVE


@dataclass(frozen=True, slots=True)
class Asking:
    """What ``--once`` asks each adapter, and whether it looks at memory."""

    prompt: Annotated[str, typer.Option(help="Answer this without and with each adapter.")] = ""
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="The longest answer.")] = 40
    residency: Annotated[
        bool, typer.Option("--residency", help="With --once: what of each adapter's files is in the page cache.")
    ] = False


@dataclass(frozen=True, slots=True)
class Leaving:
    """What is left on this machine's disk and memory for others to read."""

    tier: Annotated[
        str, typer.Option(metavar="tmpfs:DIRECTORY", help="Copy each into DIRECTORY/NAME too, which is memory.")
    ] = ""
    ready_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --serve there while it is ready; with --once when all are proved."),
    ] = None
    metrics_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Write Prometheus metrics there.")] = None
