"""What the command line of ``lora-cli warm`` asks for."""

from dataclasses import dataclass
from pathlib import Path

import typer

from lora_cli.cli import completion, options
from lora_cli.cli.options import OUTPUT, option
from lora_cli.runtime.plan import Device, Forward
from lora_cli.tiers.eviction.registry import PolicyName

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
    once: bool = option(
        "--once", "Load and prove all adapters, print a table, and exit (the default mode).", False, MODE
    )
    serve: bool = option("--serve", "Stay up and answer over HTTP.", False, MODE)
    status: bool = option("--status", "Show what a running server holds.", False, MODE)
    stop: bool = option("--stop", "Stop a running server.", False, MODE)
    endpoint: list[str] | None = option(
        "--endpoint URL", "Load the adapters into this engine; may be repeated.", None, ENGINES
    )
    engine: str = option(
        "--engine NAME[@VERSION]",
        "What runs at the endpoint: vllm, sglang or lora-cli.",
        "",
        ENGINES,
        autocompletion=completion.words("vllm", "sglang", "lora-cli"),
    )
    engine_path: list[str] | None = option(
        "--engine-path FROM=TO", "Where the engine sees a folder of this machine; may be repeated.", None, ENGINES
    )
    prune: bool = option("--prune", "Unload adapters that are not named here.", False, ENGINES)
    prove: bool = option("--prove/--no-prove", "Check that each adapter changes the engine's answers.", True, ENGINES)
    wait: str = option("--wait TIME", "How long to wait until it is ready.", "5m", ENGINES)
    watch: bool = option(
        "--watch", "Stay, and load again when the manifest changes or the engine restarts.", False, ENGINES
    )
    tp: int = option("--tp", "The engine's tensor-parallel size.", 1, ENGINES, min=1, max=4096)
    host: str = option("--host", "The address to listen at.", "127.0.0.1", SERVER)
    port: int = option("--port", "The port to listen at.", 8321, SERVER, min=1, max=65535)
    uds: Path | None = option("--uds FILE", "Listen at a Unix socket, for this user alone.", None, SERVER)
    api_key: str = option("--api-key TOKEN", "The bearer token of the API; with --endpoint the engine's.", "", SERVER)
    root: list[str] | None = option(
        "--root DIRECTORY", "Clients may load adapters from folders below this one; may be repeated.", None, SERVER
    )
    load_timeout: str = option("--load-timeout TIME", "End a load or request that takes longer.", "10m", SERVER)
    max_loras: int | None = option("--max-loras", "Slots: adapters on the device at once.", None, MEMORY, min=1)
    max_cpu_loras: int | None = option("--max-cpu-loras", "Adapters in memory at once.", None, MEMORY, min=1)
    max_cpu_bytes: str | None = option("--max-cpu-bytes SIZE", "The most bytes of adapters in memory.", None, MEMORY)
    max_lora_rank: int | None = option(
        "--max-lora-rank", "The largest rank of a slot; with --endpoint the engine's.", None, MEMORY, min=1
    )
    device: Device = option("--device", "The device that holds the slots.", "auto", MEMORY)
    forward: Forward = option(
        "--forward", "Prove adapters on the modules alone, or on the whole model too.", "modules", MEMORY
    )
    eviction: PolicyName = option(
        "--eviction", "Which adapter leaves a full tier; adaptive picks the best policy.", "adaptive", MEMORY
    )
    tier: str = option("--tier tmpfs:DIRECTORY", "Also copy each adapter to DIRECTORY/NAME, in memory.", "", MEMORY)
    prompt: str = option("--prompt", "Answer this prompt without and with each adapter, on the whole model.", "", PROOF)
    max_tokens: int = option("--max-tokens", "The longest answer, in tokens.", 40, PROOF, min=1, max=4096)
    residency: bool = option("--residency", "Show how much of each adapter's files is in the page cache.", False, PROOF)
    ready_file: Path | None = option(
        "--ready-file FILE",
        "A file that is there while the server is ready, or once --once proved all adapters.",
        None,
        OUTPUT,
    )
    metrics_file: Path | None = option("--metrics-file FILE", "Write Prometheus metrics to this file.", None, OUTPUT)
    output_format: options.OutputFormat = "human"
