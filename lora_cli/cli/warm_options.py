"""The options of ``lora-cli warm``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from lora_cli.cli import options
from lora_cli.cli.options import OUTPUT, option
from lora_cli.runtime.plan import Device, Forward
from lora_cli.tiers.eviction import PolicyName

MODE = "Mode"
SERVER = "Server (--serve, --status, --stop)"
ENGINES = "Running engines (--endpoint)"
MEMORY = "Device and memory"
PROOF = "Proof (--once)"

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class WarmOptions:
    """The parsed options."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    base: options.Base = ""
    policy: options.PolicyFile = None
    shard: options.Shard = None
    once: bool = option(
        "--once", "Load and prove all adapters, print a table and exit (the default mode).", False, MODE
    )
    serve: bool = option("--serve", "Run as an HTTP server.", False, MODE)
    status: bool = option("--status", "Show the state of a running server.", False, MODE)
    stop: bool = option("--stop", "Stop a running server.", False, MODE)
    endpoint: list[str] | None = option(
        "--endpoint URL", "Load the adapters into this engine; may be repeated.", None, ENGINES
    )
    engine: str = option(
        "--engine NAME[@VERSION]",
        "Engine at the endpoint: vllm, sglang or lora-cli.",
        "",
        ENGINES,
        autocompletion=lambda: ["vllm", "sglang", "lora-cli"],
    )
    engine_path: list[str] | None = option(
        "--engine-path FROM=TO", "Path TO in the engine of the local folder FROM; may be repeated.", None, ENGINES
    )
    prune: bool = option(
        "--prune", "Unload adapters that are not in the manifest, or not among the REFs.", False, ENGINES
    )
    allow_unload: bool = option(
        "--allow-unload", "Also unload and replace adapters in engines with known unloading bugs.", False, ENGINES
    )
    prove: bool = option("--prove/--no-prove", "Check that each adapter changes the engine's output.", True, ENGINES)
    wait: str = option("--wait TIME", "Maximum time to wait until the engine is ready.", "5m", ENGINES)
    watch: bool = option(
        "--watch", "Keep running, and load again when the manifest changes or the engine restarts.", False, ENGINES
    )
    tp: int = option("--tp", "The engine's tensor-parallel size.", 1, ENGINES, min=1, max=4096)
    host: str = option("--host", "Address to listen on.", "127.0.0.1", SERVER)
    port: int = option("--port", "Port to listen on.", 8321, SERVER, min=1, max=65535)
    uds: Path | None = option("--uds FILE", "Listen on a Unix socket that only this user can access.", None, SERVER)
    api_key: str = option("--api-key TOKEN", "Bearer token of the API, or with --endpoint of the engine.", "", SERVER)
    root: list[str] | None = option(
        "--root DIRECTORY", "Allow clients to load adapters from folders below this one; may be repeated.", None, SERVER
    )
    load_timeout: str = option("--load-timeout TIME", "Maximum time of a load or request.", "10m", SERVER)
    log_level: LogLevel | None = option(
        "--log-level", "Log from this level on, with times; info has a line for each request.", None, SERVER
    )
    max_loras: int | None = option("--max-loras", "Slots: number of adapters on the device.", None, MEMORY, min=1)
    max_cpu_loras: int | None = option(
        "--max-cpu-loras",
        "Number of adapters in memory. Memory for all of them is allocated at the start.",
        None,
        MEMORY,
        min=1,
        show_default="32 with --serve, else one each, at most 32",
    )
    max_cpu_bytes: str | None = option("--max-cpu-bytes SIZE", "Maximum bytes of adapters in memory.", None, MEMORY)
    max_lora_rank: int | None = option(
        "--max-lora-rank", "Maximum rank of a slot, or with --endpoint of the engine.", None, MEMORY, min=1
    )
    device: Device = option("--device", "Device of the slots.", "auto", MEMORY)
    forward: Forward = option(
        "--forward", "Verify adapters on the modules only, or also on the whole model.", "modules", MEMORY
    )
    eviction: PolicyName = option("--eviction", "Eviction policy.", "lru", MEMORY)
    prompt: str = option("--prompt", "Run this prompt without and with each adapter, on the whole model.", "", PROOF)
    max_tokens: int = option("--max-tokens", "Maximum number of output tokens.", 40, PROOF, min=1, max=4096)
    ready_file: Path | None = option(
        "--ready-file FILE",
        "File that exists while the server is ready, or all adapters were proved (--once) or tried (--endpoint).",
        None,
        OUTPUT,
    )
    metrics_file: Path | None = option("--metrics-file FILE", "Write Prometheus metrics to this file.", None, OUTPUT)
    output_format: options.OutputFormat = "human"
