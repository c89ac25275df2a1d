"""What the command line of ``lora-cli serve-bench`` asks for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from lora_cli.cli import options
from lora_cli.cli.options import OUTPUT, option
from lora_cli.cli.output import ReportFormat
from lora_cli.errors import UsageError
from lora_cli.runtime.plan import Forward
from lora_cli.tiers.view import Objective

MEASURED = "What is measured"
WORKLOAD = "Workload"
TIERS = "Tiers"
SIMULATION = "Simulation (--simulate)"
SYNTHETIC = "Synthetic adapters"
SERVER = "A server (--url, or the one that is started)"


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options, and what was given of each: not a None, a False or an empty list, nor an empty base or API key."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    base: options.Base = ""
    policy: options.PolicyFile = None
    simulate: bool = option(
        "--simulate", "Simulate the tiers alone: no adapters, no device, no server.", False, MEASURED
    )
    url: str | None = option("--url URL", "Measure this server: http://HOST:PORT or unix:PATH.", None, MEASURED)
    forward: Forward | None = option(
        "--forward",
        "Without --url: a whole model behind a server that is started, or modules without one.",
        None,
        MEASURED,
        show_default="model",
    )
    num_prompts: int | None = option(
        "--num-prompts",
        "The requests of each seed.",
        None,
        WORKLOAD,
        min=1,
        max=10_000_000,
        show_default="200; 20000 with --simulate",
    )
    popularity: str = option(
        "--popularity MODEL",
        "How often each adapter is asked for: zipf:S, geometric:A, slora-power:A, uniform, distinct, "
        "round-robin or a file weights.json.",
        "zipf:1.0",
        WORKLOAD,
    )
    drift: str | None = option(
        "--drift PERCENT,EVERY", "PERCENT of the adapters change places each EVERY requests.", None, WORKLOAD
    )
    scan: str | None = option(
        "--scan PERCENT", "PERCENT of the requests go through all adapters in turn.", None, WORKLOAD
    )
    sessions: str | None = option(
        "--sessions USERS,TURNS", "So many users, who stay with an adapter for about TURNS requests.", None, WORKLOAD
    )
    request_rate: str = option(
        "--request-rate PER_SECOND",
        "Requests per second; inf sends all at once, with --simulate one after the other.",
        "inf",
        WORKLOAD,
    )
    burstiness: str = option(
        "--burstiness X", "Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier.", "1", WORKLOAD
    )
    ramp_up_strategy: str | None = option(
        "--ramp-up-strategy linear|exponential", "How the request rate rises.", None, WORKLOAD
    )
    ramp_up_start_rps: int | None = option(
        "--ramp-up-start-rps", "The request rate at the beginning.", None, WORKLOAD, min=1
    )
    ramp_up_end_rps: int | None = option("--ramp-up-end-rps", "The request rate at the end.", None, WORKLOAD, min=1)
    input_len: str = option("--input-len N|LOW-HIGH", "Prompt tokens.", "128", WORKLOAD)
    output_len: str = option("--output-len N|LOW-HIGH", "Output tokens.", "16", WORKLOAD)
    seed: int = option("--seed", "The same seed draws the same workload on every machine.", 0, WORKLOAD, min=0)
    trace: Path | None = option("--trace FILE", "Replay the requests of this JSON lines file.", None, WORKLOAD)
    api_key: str = option("--api-key TOKEN", "With --url: the server's bearer token.", "", SERVER)
    lora_modules: list[str] | None = option(
        "--lora-modules NAME...", "Adapters to ask for; else all that the server lists.", None, SERVER
    )
    max_concurrency: int | None = option(
        "--max-concurrency", "The most requests at once.", None, SERVER, min=1, max=100_000
    )
    prompts: str = option("--prompts ids|text", "Prompts are token ids, or as many words.", "ids", SERVER)
    goodput: list[str] | None = option(
        "--goodput MEASURE:MS...",
        "A request is good within these, for example ttft:500 tpot:50 e2el:9000.",
        None,
        SERVER,
    )
    control: bool = option("--control", "Send the same requests to the base model too.", False, SERVER)
    probe_request_rate: str | None = option(
        "--probe-request-rate PER_SECOND", "Send requests of one token beside the load.", None, SERVER
    )
    probe_adapter: str | None = option(
        "--probe-adapter NAME", "The adapter that these ask for.", None, SERVER, show_default="the first"
    )
    num_seeds: int | None = option(
        "--num-seeds", "Runs, each with the next seed.", None, SERVER, min=1, max=100, show_default="3"
    )
    max_loras: int | None = option(
        "--max-loras", "Slots: adapters on the device at once.", None, TIERS, min=1, show_default="8"
    )
    max_cpu_loras: int | None = option(
        "--max-cpu-loras", "Adapters in memory at once.", None, TIERS, min=1, show_default="32"
    )
    max_lora_rank: int | None = option("--max-lora-rank", "The largest rank of a slot.", None, TIERS, min=1)
    device: str | None = option(
        "--device auto|cpu|cuda", "The device that holds the slots.", None, TIERS, show_default="auto"
    )
    eviction: str | None = option(
        "--eviction NAME,...",
        "Which adapter leaves a full tier; with --simulate several of lru, fifo, lfu, gdsf, adaptive and opt.",
        None,
        TIERS,
        show_default="adaptive; with --simulate lru,lfu,gdsf,adaptive,opt",
    )
    num_adapters: int | None = option(
        "--num-adapters",
        "Measure so many synthetic adapters instead of REFs.",
        None,
        SYNTHETIC,
        min=1,
        max=100_000,
        show_default="500 with --simulate",
    )
    ranks: str | None = option(
        "--ranks RANK:SHARE,...", "Ranks of synthetic adapters.", None, SYNTHETIC, show_default="16"
    )
    bytes_per_rank: str | None = option(
        "--bytes-per-rank SIZE",
        "Bytes of an adapter for each rank, as of Llama-3-8B.",
        None,
        SIMULATION,
        show_default="5MiB",
    )
    max_gpu_bytes: str | None = option(
        "--max-gpu-bytes SIZE", "Bytes of all slots; else all are equally large.", None, SIMULATION
    )
    max_cpu_bytes: str | None = option(
        "--max-cpu-bytes SIZE", "Bytes in memory; else only their number counts.", None, SIMULATION
    )
    disk_link: str | None = option(
        "--disk-link MS,GB/S", "What a load from disk into memory takes.", None, SIMULATION, show_default="2,7"
    )
    gpu_link: str | None = option(
        "--gpu-link MS,GB/S", "What a load from memory into a slot takes.", None, SIMULATION, show_default="1,25"
    )
    measured: Path | None = option("--measured FILE", "Loads take what this saved result measured.", None, SIMULATION)
    objective: Objective | None = option(
        "--objective", "What adaptive and gdsf make small.", None, SIMULATION, show_default="stall"
    )
    plan: list[str] | None = option(
        "--plan GOAL",
        'Find the smallest tiers that reach a goal, for example "hit_ratio>=0.95"; may be repeated.',
        None,
        SIMULATION,
    )
    save_trace: Path | None = option("--save-trace FILE", "Write the requests as JSON lines.", None, OUTPUT)
    save_result: bool = option("--save-result", "Save the result as JSON, and the requests beside it.", False, OUTPUT)
    result_dir: Path | None = option(
        "--result-dir DIRECTORY", "Where to save the result.", None, OUTPUT, show_default="."
    )
    result_filename: str | None = option("--result-filename NAME", "The name of the saved result.", None, OUTPUT)
    metadata: list[str] | None = option(
        "--metadata KEY=VALUE", "Add this to the saved result; may be repeated.", None, OUTPUT
    )
    baseline: Path | None = option("--baseline FILE", "Compare with this saved result.", None, OUTPUT)
    fail_if: list[str] | None = option(
        "--fail-if CONDITION",
        'Exit with 1 if so, for example "adaptive.stall_p99_ms>500"; may be repeated.',
        None,
        OUTPUT,
    )
    output_format: ReportFormat = option("--format", "The format of the result.", "human", OUTPUT)
    output: options.OutputFile = None

    def given(self, names: Iterable[str]) -> Iterator[str]:
        """The flags of those of these options that were given."""
        for name in names:
            value = getattr(self, name)
            unset = value is None or value is False or value == [] or (value == "" and name in {"base", "api_key"})
            if not unset:
                yield {"refs": "REFs", "manifest": "-f"}.get(name, f"--{name.replace('_', '-')}")

    def refuse(self, names: Iterable[str], why: str, hint: str = "") -> None:
        """End the command where one of these options was given: it would change nothing.

        Raises:
            UsageError: one was given.
        """
        for flag in self.given(names):
            raise UsageError(f"{flag} {'are' if flag == 'REFs' else 'is'} {why}", hint=hint)
