"""What the command line of ``lora-cli warm`` asks for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lora_cli.cli import completion, options
from lora_cli.cli.options import OUTPUT, option
from lora_cli.cli.warming import Device, Eviction, Forward

MODE = "What to do"
SERVER = "The server (--serve, --status, --stop)"
ENGINES = "Running engines (--endpoint)"
MEMORY = "Device and memory"
PROOF = "Proof (--once)"


@dataclass(frozen=True, slots=True)
class WarmOptions:
    """The options, and what was given of each."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    checkpoint: options.Checkpoint = ""
    base: options.Base = ""
    policy: options.PolicyFile = None
    shard: options.Shard = None
    once: Annotated[
        bool, option("--once", panel=MODE, help="Load and prove all adapters, print a table, and exit.")
    ] = False
    serve: Annotated[bool, option("--serve", panel=MODE, help="Stay up and answer over HTTP.")] = False
    status: Annotated[bool, option("--status", panel=MODE, help="Show what a running server holds.")] = False
    stop: Annotated[bool, option("--stop", panel=MODE, help="Stop a running server.")] = False
    endpoint: Annotated[
        list[str] | None,
        option("--endpoint", panel=ENGINES, metavar="URL", help="Load the adapters into this engine; may be repeated."),
    ] = None
    engine: Annotated[
        str,
        option(
            "--engine",
            panel=ENGINES,
            metavar="NAME[@VERSION]",
            help="What runs at the endpoint: vllm, sglang or lora-cli.",
            autocompletion=completion.words("vllm", "sglang", "lora-cli"),
        ),
    ] = ""
    engine_path: Annotated[
        list[str] | None,
        option(
            "--engine-path",
            panel=ENGINES,
            metavar="FROM=TO",
            help="Where the engine sees a folder of this machine; may be repeated.",
        ),
    ] = None
    prune: Annotated[bool, option("--prune", panel=ENGINES, help="Unload adapters that are not named here.")] = False
    prove: Annotated[
        bool, option("--prove/--no-prove", panel=ENGINES, help="Check that each adapter changes the engine's answers.")
    ] = True
    wait: Annotated[
        str, option("--wait", panel=ENGINES, metavar="TIME", help="How long to wait until it is ready.")
    ] = "5m"
    watch: Annotated[
        bool,
        option("--watch", panel=ENGINES, help="Stay, and load again when the manifest changes or the engine restarts."),
    ] = False
    tp: Annotated[int, option("--tp", panel=ENGINES, min=1, max=4096, help="The engine's tensor-parallel size.")] = 1
    host: Annotated[str, option("--host", panel=SERVER, help="The address to listen at.")] = "127.0.0.1"
    port: Annotated[int, option("--port", panel=SERVER, min=1, max=65535, help="The port to listen at.")] = 8321
    uds: Annotated[
        Path | None,
        option("--uds", panel=SERVER, metavar="FILE", help="Listen at a Unix socket, for this user alone."),
    ] = None
    api_key: Annotated[
        str,
        option(
            "--api-key",
            panel=SERVER,
            metavar="TOKEN",
            help="The bearer token of the API; with --endpoint the engine's.",
        ),
    ] = ""
    root: Annotated[
        list[str] | None,
        option(
            "--root",
            panel=SERVER,
            metavar="DIRECTORY",
            help="Clients may load adapters from folders below this one; may be repeated.",
        ),
    ] = None
    load_timeout: Annotated[
        str,
        option("--load-timeout", panel=SERVER, metavar="TIME", help="End a load or request that takes longer."),
    ] = "10m"
    max_loras: Annotated[
        int | None, option("--max-loras", panel=MEMORY, min=1, help="Slots: adapters on the device at once.")
    ] = None
    max_cpu_loras: Annotated[
        int | None, option("--max-cpu-loras", panel=MEMORY, min=1, help="Adapters in memory at once.")
    ] = None
    max_cpu_bytes: Annotated[
        str | None,
        option("--max-cpu-bytes", panel=MEMORY, metavar="SIZE", help="The most bytes of adapters in memory."),
    ] = None
    max_lora_rank: Annotated[
        int | None,
        option(
            "--max-lora-rank", panel=MEMORY, min=1, help="The largest rank of a slot; with --endpoint the engine's."
        ),
    ] = None
    device: Annotated[Device, option("--device", panel=MEMORY, help="The device that holds the slots.")] = "auto"
    forward: Annotated[
        Forward,
        option("--forward", panel=MEMORY, help="Prove adapters on the modules alone, or on the whole model too."),
    ] = "modules"
    eviction: Annotated[
        Eviction,
        option("--eviction", panel=MEMORY, help="Which adapter leaves a full tier; adaptive picks the best policy."),
    ] = "adaptive"
    tier: Annotated[
        str,
        option(
            "--tier",
            panel=MEMORY,
            metavar="tmpfs:DIRECTORY",
            help="Also copy each adapter to DIRECTORY/NAME, in memory.",
        ),
    ] = ""
    prompt: Annotated[
        str, option("--prompt", panel=PROOF, help="Answer this prompt without and with each adapter.")
    ] = ""
    max_tokens: Annotated[
        int, option("--max-tokens", panel=PROOF, min=1, max=4096, help="The longest answer, in tokens.")
    ] = 40
    residency: Annotated[
        bool, option("--residency", panel=PROOF, help="Show how much of each adapter's files is in the page cache.")
    ] = False
    ready_file: Annotated[
        Path | None,
        option(
            "--ready-file",
            panel=OUTPUT,
            metavar="FILE",
            help="A file that is there while the server is ready, or once --once proved all adapters.",
        ),
    ] = None
    metrics_file: Annotated[
        Path | None,
        option("--metrics-file", panel=OUTPUT, metavar="FILE", help="Write Prometheus metrics to this file."),
    ] = None
    output_format: options.OutputFormat = "human"
