"""The options that ``lora-cli warm`` alone has."""

from pathlib import Path
from typing import Annotated

from lora_cli.cli import completion
from lora_cli.cli.options import OUTPUT, option
from lora_cli.cli.warming import Device, Eviction, Forward

MODE = "What to do"
SERVER = "The server (--serve, --status, --stop)"
ENGINES = "Running engines (--endpoint)"
MEMORY = "Device and memory"
PROOF = "Proof (--once)"

Once = Annotated[bool, option("--once", panel=MODE, help="Load and prove all adapters, print a table, and exit.")]
Serve = Annotated[bool, option("--serve", panel=MODE, help="Stay up and answer over HTTP.")]
Status = Annotated[bool, option("--status", panel=MODE, help="Show what a running server holds.")]
Stop = Annotated[bool, option("--stop", panel=MODE, help="Stop a running server.")]
Endpoints = Annotated[
    list[str] | None,
    option("--endpoint", panel=ENGINES, metavar="URL", help="Load the adapters into this engine; may be repeated."),
]
Engine = Annotated[
    str,
    option(
        "--engine",
        panel=ENGINES,
        metavar="NAME[@VERSION]",
        help="What runs at the endpoint: vllm, sglang or lora-cli.",
        autocompletion=completion.words("vllm", "sglang", "lora-cli"),
    ),
]
EnginePath = Annotated[
    list[str] | None,
    option(
        "--engine-path",
        panel=ENGINES,
        metavar="FROM=TO",
        help="Where the engine sees a folder of this machine; may be repeated.",
    ),
]
Prune = Annotated[bool, option("--prune", panel=ENGINES, help="Unload adapters that are not named here.")]
Prove = Annotated[
    bool, option("--prove/--no-prove", panel=ENGINES, help="Check that each adapter changes the engine's answers.")
]
Wait = Annotated[str, option("--wait", panel=ENGINES, metavar="TIME", help="How long to wait until it is ready.")]
Watch = Annotated[
    bool,
    option("--watch", panel=ENGINES, help="Stay, and load again when the manifest changes or the engine restarts."),
]
Host = Annotated[str, option("--host", panel=SERVER, help="The address to listen at.")]
Port = Annotated[int, option("--port", panel=SERVER, min=1, max=65535, help="The port to listen at.")]
Uds = Annotated[
    Path | None,
    option("--uds", panel=SERVER, metavar="FILE", help="Listen at a Unix socket, for this user alone."),
]
ApiKey = Annotated[
    str,
    option(
        "--api-key", panel=SERVER, metavar="TOKEN", help="The bearer token of the API; with --endpoint the engine's."
    ),
]
Root = Annotated[
    list[str] | None,
    option(
        "--root",
        panel=SERVER,
        metavar="DIRECTORY",
        help="Clients may load adapters from folders below this one; may be repeated.",
    ),
]
LoadTimeout = Annotated[
    str,
    option("--load-timeout", panel=SERVER, metavar="TIME", help="End a load or request that takes longer."),
]
MaxLoras = Annotated[
    int | None, option("--max-loras", panel=MEMORY, min=1, help="Slots: adapters on the device at once.")
]
MaxCpuLoras = Annotated[int | None, option("--max-cpu-loras", panel=MEMORY, min=1, help="Adapters in memory at once.")]
MaxCpuBytes = Annotated[
    str | None,
    option("--max-cpu-bytes", panel=MEMORY, metavar="SIZE", help="The most bytes of adapters in memory."),
]
MaxLoraRank = Annotated[
    int | None,
    option("--max-lora-rank", panel=MEMORY, min=1, help="The largest rank of a slot; with --endpoint the engine's."),
]
OnDevice = Annotated[Device, option("--device", panel=MEMORY, help="The device that holds the slots.")]
ForwardOf = Annotated[
    Forward, option("--forward", panel=MEMORY, help="Prove adapters on the modules alone, or on the whole model too.")
]
EvictionBy = Annotated[
    Eviction,
    option("--eviction", panel=MEMORY, help="Which adapter leaves a full tier; adaptive picks the best policy."),
]
Prompt = Annotated[str, option("--prompt", panel=PROOF, help="Answer this prompt without and with each adapter.")]
MaxTokens = Annotated[int, option("--max-tokens", panel=PROOF, min=1, max=4096, help="The longest answer, in tokens.")]
Residency = Annotated[
    bool, option("--residency", panel=PROOF, help="Show how much of each adapter's files is in the page cache.")
]
Tier = Annotated[
    str,
    option(
        "--tier", panel=MEMORY, metavar="tmpfs:DIRECTORY", help="Also copy each adapter to DIRECTORY/NAME, in memory."
    ),
]
ReadyFile = Annotated[
    Path | None,
    option(
        "--ready-file",
        panel=OUTPUT,
        metavar="FILE",
        help="A file that is there while the server is ready, or once --once proved all adapters.",
    ),
]
MetricsFile = Annotated[
    Path | None, option("--metrics-file", panel=OUTPUT, metavar="FILE", help="Write Prometheus metrics to this file.")
]
Tp = Annotated[int, option("--tp", panel=ENGINES, min=1, max=4096, help="The engine's tensor-parallel size.")]
