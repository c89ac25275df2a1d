"""The options that ``lora-cli serve-bench`` alone has, and what they are once they are read."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from lora_cli.cli.options import OUTPUT, option
from lora_cli.cli.output import ReportFormat

MODE = "What is measured"
WORKLOAD = "Workload"
TIERS = "Tiers"
SIMULATION = "Simulation (--simulate)"
SYNTHETIC = "Synthetic adapters"
LIVE = "A server (--url, or the one that is started)"


class Objective(StrEnum):
    """What an eviction policy is to make small."""

    STALL = "stall"
    HITS = "hits"
    BYTES = "bytes"


class Answering(StrEnum):
    """What answers, where no server is named."""

    MODULES = "modules"
    MODEL = "model"


Simulate = Annotated[
    bool, option("--simulate", panel=MODE, help="Simulate the tiers alone: no adapters, no device, no server.")
]
Url = Annotated[
    str | None,
    option("--url", panel=MODE, metavar="URL", help="Measure this server: http://HOST:PORT or unix:PATH."),
]
ForwardBy = Annotated[
    Answering | None,
    option(
        "--forward",
        panel=MODE,
        help="Without --url: a whole model behind a server that is started, or modules without one.",
        show_default="model",
    ),
]
NumPrompts = Annotated[
    int | None,
    option(
        "--num-prompts",
        panel=WORKLOAD,
        min=1,
        max=10_000_000,
        help="The requests of each seed.",
        show_default="200; 20000 with --simulate",
    ),
]
Popularity = Annotated[
    str,
    option(
        "--popularity",
        panel=WORKLOAD,
        metavar="MODEL",
        help="How often each adapter is asked for: zipf:S, geometric:A, slora-power:A, uniform, distinct, round-robin "
        "or a file weights.json.",
    ),
]
Drift = Annotated[
    str | None,
    option(
        "--drift",
        panel=WORKLOAD,
        metavar="PERCENT,EVERY",
        help="PERCENT of the adapters change places each EVERY requests.",
    ),
]
Scan = Annotated[
    str | None,
    option(
        "--scan", panel=WORKLOAD, metavar="PERCENT", help="PERCENT of the requests go through all adapters in turn."
    ),
]
Sessions = Annotated[
    str | None,
    option(
        "--sessions",
        panel=WORKLOAD,
        metavar="USERS,TURNS",
        help="So many users, who stay with an adapter for about TURNS requests.",
    ),
]
RequestRate = Annotated[
    str,
    option(
        "--request-rate",
        panel=WORKLOAD,
        metavar="PER_SECOND",
        help="Requests per second; inf sends all at once, with --simulate one after the other.",
    ),
]
Burstiness = Annotated[
    str,
    option(
        "--burstiness",
        panel=WORKLOAD,
        metavar="X",
        help="Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier.",
    ),
]
RampUpStrategy = Annotated[
    str | None,
    option("--ramp-up-strategy", panel=WORKLOAD, metavar="linear|exponential", help="How the request rate rises."),
]
RampUpStart = Annotated[
    int | None, option("--ramp-up-start-rps", panel=WORKLOAD, min=1, help="The request rate at the beginning.")
]
RampUpEnd = Annotated[
    int | None, option("--ramp-up-end-rps", panel=WORKLOAD, min=1, help="The request rate at the end.")
]
InputLen = Annotated[str, option("--input-len", panel=WORKLOAD, metavar="N|LOW-HIGH", help="Prompt tokens.")]
OutputLen = Annotated[str, option("--output-len", panel=WORKLOAD, metavar="N|LOW-HIGH", help="Output tokens.")]
Seed = Annotated[
    int, option("--seed", panel=WORKLOAD, min=0, help="The same seed draws the same workload on every machine.")
]
Trace = Annotated[
    Path | None, option("--trace", panel=WORKLOAD, metavar="FILE", help="Replay the requests of this JSON lines file.")
]
SaveTrace = Annotated[
    Path | None, option("--save-trace", panel=OUTPUT, metavar="FILE", help="Write the requests as JSON lines.")
]
MaxLoras = Annotated[
    int | None,
    option("--max-loras", panel=TIERS, min=1, help="Slots: adapters on the device at once.", show_default="8"),
]
MaxCpuLoras = Annotated[
    int | None, option("--max-cpu-loras", panel=TIERS, min=1, help="Adapters in memory at once.", show_default="32")
]
MaxLoraRank = Annotated[int | None, option("--max-lora-rank", panel=TIERS, min=1, help="The largest rank of a slot.")]
OnDevice = Annotated[
    str | None,
    option(
        "--device", panel=TIERS, metavar="auto|cpu|cuda", help="The device that holds the slots.", show_default="auto"
    ),
]
EvictionBy = Annotated[
    str | None,
    option(
        "--eviction",
        panel=TIERS,
        metavar="NAME,...",
        help="Which adapter leaves a full tier; with --simulate several of lru, fifo, lfu, gdsf, adaptive and opt.",
        show_default="adaptive; with --simulate lru,lfu,gdsf,adaptive,opt",
    ),
]
NumAdapters = Annotated[
    int | None,
    option(
        "--num-adapters",
        panel=SYNTHETIC,
        min=1,
        max=100_000,
        help="Measure so many synthetic adapters instead of REFs.",
        show_default="500 with --simulate",
    ),
]
RanksOf = Annotated[
    str | None,
    option(
        "--ranks", panel=SYNTHETIC, metavar="RANK:SHARE,...", help="Ranks of synthetic adapters.", show_default="16"
    ),
]
BytesPerRank = Annotated[
    str | None,
    option(
        "--bytes-per-rank",
        panel=SIMULATION,
        metavar="SIZE",
        help="Bytes of an adapter for each rank, as of Llama-3-8B.",
        show_default="5MiB",
    ),
]
MaxGpuBytes = Annotated[
    str | None,
    option("--max-gpu-bytes", panel=SIMULATION, metavar="SIZE", help="Bytes of all slots; else all are equally large."),
]
MaxCpuBytes = Annotated[
    str | None,
    option("--max-cpu-bytes", panel=SIMULATION, metavar="SIZE", help="Bytes in memory; else only their number counts."),
]
DiskLink = Annotated[
    str | None,
    option(
        "--disk-link",
        panel=SIMULATION,
        metavar="MS,GB/S",
        help="What a load from disk into memory takes.",
        show_default="2,7",
    ),
]
GpuLink = Annotated[
    str | None,
    option(
        "--gpu-link",
        panel=SIMULATION,
        metavar="MS,GB/S",
        help="What a load from memory into a slot takes.",
        show_default="1,25",
    ),
]
Measured = Annotated[
    Path | None,
    option("--measured", panel=SIMULATION, metavar="FILE", help="Loads take what this saved result measured."),
]
ObjectiveOf = Annotated[
    Objective | None,
    option("--objective", panel=SIMULATION, help="What adaptive and gdsf make small.", show_default="stall"),
]
Plan = Annotated[
    list[str] | None,
    option(
        "--plan",
        panel=SIMULATION,
        metavar="GOAL",
        help='Find the smallest tiers that reach a goal, for example "hit_ratio>=0.95"; may be repeated.',
    ),
]
ApiKey = Annotated[str, option("--api-key", panel=LIVE, metavar="TOKEN", help="With --url: the server's bearer token.")]
LoraModules = Annotated[
    list[str] | None,
    option(
        "--lora-modules", panel=LIVE, metavar="NAME...", help="Adapters to ask for; else all that the server lists."
    ),
]
MaxConcurrency = Annotated[
    int | None, option("--max-concurrency", panel=LIVE, min=1, max=100_000, help="The most requests at once.")
]
Prompts = Annotated[
    str, option("--prompts", panel=LIVE, metavar="ids|text", help="Prompts are token ids, or as many words.")
]
Goodput = Annotated[
    list[str] | None,
    option(
        "--goodput",
        panel=LIVE,
        metavar="MEASURE:MS...",
        help="A request is good within these, for example ttft:500 tpot:50 e2el:9000.",
    ),
]
Control = Annotated[bool, option("--control", panel=LIVE, help="Send the same requests to the base model too.")]
ProbeRequestRate = Annotated[
    str | None,
    option(
        "--probe-request-rate",
        panel=LIVE,
        metavar="PER_SECOND",
        help="Send requests of one token beside the load.",
    ),
]
ProbeAdapter = Annotated[
    str | None,
    option(
        "--probe-adapter", panel=LIVE, metavar="NAME", help="The adapter that these ask for.", show_default="the first"
    ),
]
NumSeeds = Annotated[
    int | None,
    option("--num-seeds", panel=LIVE, min=1, max=100, help="Runs, each with the next seed.", show_default="3"),
]
SaveResult = Annotated[
    bool, option("--save-result", panel=OUTPUT, help="Save the result as JSON, and the requests beside it.")
]
ResultDir = Annotated[
    Path | None,
    option("--result-dir", panel=OUTPUT, metavar="DIRECTORY", help="Where to save the result.", show_default="."),
]
ResultFilename = Annotated[
    str | None, option("--result-filename", panel=OUTPUT, metavar="NAME", help="The name of the saved result.")
]
Metadata = Annotated[
    list[str] | None,
    option("--metadata", panel=OUTPUT, metavar="KEY=VALUE", help="Add this to the saved result; may be repeated."),
]
Baseline = Annotated[
    Path | None, option("--baseline", panel=OUTPUT, metavar="FILE", help="Compare with this saved result.")
]
FailIf = Annotated[
    list[str] | None,
    option(
        "--fail-if",
        panel=OUTPUT,
        metavar="CONDITION",
        help='Exit with 1 if so, for example "adaptive.stall_p99_ms>500"; may be repeated.',
    ),
]
OutputFormat = Annotated[ReportFormat, option("--format", panel=OUTPUT, help="The format of the result.")]


@dataclass(frozen=True, slots=True)
class LineupFlags:
    """Which adapters are measured."""

    refs: list[str] | None
    manifest: Path | None
    base: str
    policy: Path | None


@dataclass(frozen=True, slots=True)
class WorkloadFlags:
    """What is asked for."""

    num_prompts: int | None
    popularity: str
    drift: str | None
    scan: str | None
    sessions: str | None
    request_rate: str
    burstiness: str
    ramp_up_strategy: str | None
    ramp_up_start_rps: int | None
    ramp_up_end_rps: int | None
    input_len: str
    output_len: str
    seed: int
    trace: Path | None


@dataclass(frozen=True, slots=True)
class TierFlags:
    """The tiers, and who leaves them."""

    max_loras: int | None
    max_cpu_loras: int | None
    max_lora_rank: int | None
    device: str | None
    eviction: str | None


@dataclass(frozen=True, slots=True)
class FleetFlags:
    """What is there only where it is simulated."""

    num_adapters: int | None
    ranks: str | None
    bytes_per_rank: str | None
    max_gpu_bytes: str | None
    max_cpu_bytes: str | None
    disk_link: str | None
    gpu_link: str | None
    measured: Path | None
    objective: Objective | None
    plan: list[str] | None


@dataclass(frozen=True, slots=True)
class LiveFlags:
    """What is there only where a server is measured."""

    url: str | None
    forward: Answering | None
    api_key: str
    lora_modules: list[str] | None
    max_concurrency: int | None
    prompts: str
    goodput: list[str] | None
    control: bool
    probe_request_rate: str | None
    probe_adapter: str | None
    num_seeds: int | None


@dataclass(frozen=True, slots=True)
class ResultFlags:
    """What becomes of the result."""

    save_trace: Path | None
    save_result: bool
    result_dir: Path | None
    result_filename: str | None
    metadata: list[str] | None
    baseline: Path | None
    fail_if: list[str] | None
    output_format: ReportFormat
    output: Path | None
