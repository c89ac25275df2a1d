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
    once: Annotated[bool, option("--once", "Load and prove all adapters, print a table, and exit.", panel=MODE)] = False
    serve: Annotated[bool, option("--serve", "Stay up and answer over HTTP.", panel=MODE)] = False
    status: Annotated[bool, option("--status", "Show what a running server holds.", panel=MODE)] = False
    stop: Annotated[bool, option("--stop", "Stop a running server.", panel=MODE)] = False
    endpoint: Annotated[
        list[str] | None,
        option("--endpoint", "Load the adapters into this engine; may be repeated.", panel=ENGINES, metavar="URL"),
    ] = None
    engine: Annotated[
        str,
        option(
            "--engine",
            "What runs at the endpoint: vllm, sglang or lora-cli.",
            panel=ENGINES,
            metavar="NAME[@VERSION]",
            autocompletion=completion.words("vllm", "sglang", "lora-cli"),
        ),
    ] = ""
    engine_path: Annotated[
        list[str] | None,
        option(
            "--engine-path",
            "Where the engine sees a folder of this machine; may be repeated.",
            panel=ENGINES,
            metavar="FROM=TO",
        ),
    ] = None
    prune: Annotated[bool, option("--prune", "Unload adapters that are not named here.", panel=ENGINES)] = False
    prove: Annotated[
        bool, option("--prove/--no-prove", "Check that each adapter changes the engine's answers.", panel=ENGINES)
    ] = True
    wait: Annotated[str, option("--wait", "How long to wait until it is ready.", panel=ENGINES, metavar="TIME")] = "5m"
    watch: Annotated[
        bool, option("--watch", "Stay, and load again when the manifest changes or the engine restarts.", panel=ENGINES)
    ] = False
    tp: Annotated[int, option("--tp", "The engine's tensor-parallel size.", panel=ENGINES, min=1, max=4096)] = 1
    host: Annotated[str, option("--host", "The address to listen at.", panel=SERVER)] = "127.0.0.1"
    port: Annotated[int, option("--port", "The port to listen at.", panel=SERVER, min=1, max=65535)] = 8321
    uds: Annotated[
        Path | None, option("--uds", "Listen at a Unix socket, for this user alone.", panel=SERVER, metavar="FILE")
    ] = None
    api_key: Annotated[
        str,
        option(
            "--api-key", "The bearer token of the API; with --endpoint the engine's.", panel=SERVER, metavar="TOKEN"
        ),
    ] = ""
    root: Annotated[
        list[str] | None,
        option(
            "--root",
            "Clients may load adapters from folders below this one; may be repeated.",
            panel=SERVER,
            metavar="DIRECTORY",
        ),
    ] = None
    load_timeout: Annotated[
        str, option("--load-timeout", "End a load or request that takes longer.", panel=SERVER, metavar="TIME")
    ] = "10m"
    max_loras: Annotated[
        int | None, option("--max-loras", "Slots: adapters on the device at once.", panel=MEMORY, min=1)
    ] = None
    max_cpu_loras: Annotated[
        int | None, option("--max-cpu-loras", "Adapters in memory at once.", panel=MEMORY, min=1)
    ] = None
    max_cpu_bytes: Annotated[
        str | None, option("--max-cpu-bytes", "The most bytes of adapters in memory.", panel=MEMORY, metavar="SIZE")
    ] = None
    max_lora_rank: Annotated[
        int | None,
        option("--max-lora-rank", "The largest rank of a slot; with --endpoint the engine's.", panel=MEMORY, min=1),
    ] = None
    device: Annotated[Device, option("--device", "The device that holds the slots.", panel=MEMORY)] = "auto"
    forward: Annotated[
        Forward, option("--forward", "Prove adapters on the modules alone, or on the whole model too.", panel=MEMORY)
    ] = "modules"
    eviction: Annotated[
        Eviction,
        option("--eviction", "Which adapter leaves a full tier; adaptive picks the best policy.", panel=MEMORY),
    ] = "adaptive"
    tier: Annotated[
        str,
        option(
            "--tier", "Also copy each adapter to DIRECTORY/NAME, in memory.", panel=MEMORY, metavar="tmpfs:DIRECTORY"
        ),
    ] = ""
    prompt: Annotated[str, option("--prompt", "Answer this prompt without and with each adapter.", panel=PROOF)] = ""
    max_tokens: Annotated[
        int, option("--max-tokens", "The longest answer, in tokens.", panel=PROOF, min=1, max=4096)
    ] = 40
    residency: Annotated[
        bool, option("--residency", "Show how much of each adapter's files is in the page cache.", panel=PROOF)
    ] = False
    ready_file: Annotated[
        Path | None,
        option(
            "--ready-file",
            "A file that is there while the server is ready, or once --once proved all adapters.",
            panel=OUTPUT,
            metavar="FILE",
        ),
    ] = None
    metrics_file: Annotated[
        Path | None, option("--metrics-file", "Write Prometheus metrics to this file.", panel=OUTPUT, metavar="FILE")
    ] = None
    output_format: options.OutputFormat = "human"
