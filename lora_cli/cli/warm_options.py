"""The options of ``lora-cli warm``, each with its help text."""

from pathlib import Path
from typing import Annotated

from lora_cli.cli import typer
from lora_cli.cli.warming import Device, Eviction, Forward

Once = Annotated[bool, typer.Option("--once", help="Prove all, print a table, and end.")]
Serve = Annotated[bool, typer.Option("--serve", help="Stay up and answer over HTTP.")]
Status = Annotated[bool, typer.Option("--status", help="What a server that runs holds.")]
Stop = Annotated[bool, typer.Option("--stop", help="End a server that runs.")]
Endpoints = Annotated[
    list[str] | None, typer.Option(metavar="URL", help="Warm this running server instead; several may be named.")
]
Engine = Annotated[
    str,
    typer.Option(metavar="NAME[@VERSION]", help="What runs there: vllm, sglang or lora-cli.", show_default=False),
]
EnginePath = Annotated[
    list[str] | None, typer.Option(metavar="FROM=TO", help="Where those servers see a folder of this machine.")
]
Prune = Annotated[bool, typer.Option("--prune", help="Have them unload what is not named here.")]
Prove = Annotated[bool, typer.Option("--prove/--no-prove", help="Ask them whether each adapter does something.")]
Wait = Annotated[str, typer.Option(metavar="TIME", help="How long to wait until they are ready.")]
Watch = Annotated[bool, typer.Option("--watch", help="Stay, and do it again when the manifest changes.")]
Host = Annotated[str, typer.Option(help="Where the server listens.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Where the server listens.")]
Uds = Annotated[Path | None, typer.Option(metavar="FILE", help="Listen at a Unix socket, for this user alone.")]
ApiKey = Annotated[str, typer.Option(metavar="TOKEN", help="The bearer token of the API.", show_default=False)]
Root = Annotated[list[str] | None, typer.Option(metavar="DIRECTORY", help="Clients may load adapters from below it.")]
LoadTimeout = Annotated[
    str, typer.Option(metavar="TIME", help="With --serve: end a child that takes longer over one request.")
]
MaxLoras = Annotated[int | None, typer.Option(min=1, help="Slots: adapters on the device at once.")]
MaxCpuLoras = Annotated[int | None, typer.Option(min=1, help="Adapters in memory at once.")]
MaxCpuBytes = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Bytes that adapters in memory take at most: 8GiB.", show_default=False),
]
MaxLoraRank = Annotated[int | None, typer.Option(min=1, help="The largest rank that a slot takes.")]
DeviceOption = Annotated[Device, typer.Option(help="What owns the slots.")]
ForwardOption = Annotated[Forward, typer.Option(help="Prove modules, or run the whole model too.")]
EvictionOption = Annotated[
    Eviction, typer.Option(help="Who leaves slots or memory that are full; adaptive follows whichever does best.")
]
Prompt = Annotated[str, typer.Option(help="Answer this without and with each adapter.")]
MaxTokens = Annotated[int, typer.Option(min=1, max=4096, help="The longest answer.")]
Residency = Annotated[
    bool, typer.Option("--residency", help="With --once: what of each adapter's files is in the page cache.")
]
Tier = Annotated[
    str, typer.Option(metavar="tmpfs:DIRECTORY", help="Copy each into DIRECTORY/NAME too, which is memory.")
]
ReadyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="With --serve: there while the server is ready.")]
MetricsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write Prometheus metrics there.")]
