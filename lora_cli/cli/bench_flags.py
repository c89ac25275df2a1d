"""The options of ``serve-bench``, by what they are about, each with its help text; None is what that says it is."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from lora_cli.cli import options, typer
from lora_cli.cli.output import ReportFormat


class Objective(StrEnum):
    """What an eviction policy is to make small."""

    STALL = "stall"
    HITS = "hits"
    BYTES = "bytes"


class Answering(StrEnum):
    """What answers, where no server is named."""

    MODULES = "modules"
    MODEL = "model"


Simulate = Annotated[bool, typer.Option("--simulate", help="Only the books of the tiers: no adapters, no device.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed is the same workload, on every machine.")]
SaveTrace = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the requests as JSON lines.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class LineupFlags:
    """Which adapters are measured."""

    refs: options.Refs = None
    manifest: options.Manifest = None
    base: options.Base = ""
    policy: options.PolicyFile = None


@dataclass(frozen=True, slots=True)
class WorkloadFlags:
    """What is asked for."""

    num_prompts: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000_000,
            help="How many requests, for each seed: 200, or 20000 with --simulate.",
            show_default=False,
        ),
    ] = None
    popularity: Annotated[
        str,
        typer.Option(
            help="zipf:S, geometric:A, slora-power:A, uniform, distinct, round-robin or weights.json; the first leads."
        ),
    ] = "zipf:1.0"
    drift: Annotated[
        str | None,
        typer.Option(metavar="PERCENT,EVERY", help="So many change places, each so many requests.", show_default=False),
    ] = None
    scan: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="So many requests ask for all in turn.", show_default=False)
    ] = None
    sessions: Annotated[
        str | None,
        typer.Option(metavar="USERS,TURNS", help="Users who stay with an adapter for some turns.", show_default=False),
    ] = None
    request_rate: Annotated[
        str,
        typer.Option(
            metavar="PER_SECOND", help="How many come in a second; inf is one after the other, with --url at once."
        ),
    ] = "inf"
    burstiness: Annotated[
        str, typer.Option(help="Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less comes in bursts.")
    ] = "1"
    ramp_up_strategy: Annotated[
        str | None,
        typer.Option(
            "--ramp-up-strategy", metavar="linear|exponential", help="How the rate rises.", show_default=False
        ),
    ] = None
    ramp_up_start_rps: Annotated[
        int | None, typer.Option("--ramp-up-start-rps", min=1, help="The rate at first.", show_default=False)
    ] = None
    ramp_up_end_rps: Annotated[
        int | None, typer.Option("--ramp-up-end-rps", min=1, help="The last rate.", show_default=False)
    ] = None
    input_len: Annotated[str, typer.Option(metavar="N|LOW-HIGH", help="Tokens in.")] = "128"
    output_len: Annotated[str, typer.Option(metavar="N|LOW-HIGH", help="Tokens out.")] = "16"
    seed: int = 0
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Requests out of JSON lines.", show_default=False)
    ] = None


@dataclass(frozen=True, slots=True)
class TierFlags:
    """The tiers, and who leaves them."""

    max_loras: Annotated[
        int | None, typer.Option(min=1, help="Adapters on the device at once: 8.", show_default=False)
    ] = None
    max_cpu_loras: Annotated[
        int | None, typer.Option(min=1, help="Adapters in memory at once: 32.", show_default=False)
    ] = None
    max_lora_rank: Annotated[
        int | None, typer.Option(min=1, help="The largest rank that a slot holds.", show_default=False)
    ] = None
    device: Annotated[
        str | None, typer.Option(help="What owns the slots: auto (the default), cpu or cuda.", show_default=False)
    ] = None
    eviction: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Who leaves: adaptive; with --simulate several of lru, fifo, lfu, gdsf, adaptive and opt (the best).",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class FleetFlags:
    """What is there only where it is simulated."""

    num_adapters: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Adapters that nobody trained instead of REFs; 500 are simulated.",
            show_default=False,
        ),
    ] = None
    ranks: Annotated[
        str | None, typer.Option(metavar="RANK:SHARE,...", help="Their ranks: 16.", show_default=False)
    ] = None
    bytes_per_rank: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes for each rank: 5MiB, as Llama-3-8B.", show_default=False)
    ] = None
    max_gpu_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes of all slots; else all slots are alike.", show_default=False),
    ] = None
    max_cpu_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes in memory; else only their number counts.", show_default=False),
    ] = None
    disk_link: Annotated[
        str | None, typer.Option(metavar="MS,GB/S", help="A load from disk into memory: 2,7.", show_default=False)
    ] = None
    gpu_link: Annotated[
        str | None, typer.Option(metavar="MS,GB/S", help="A load from memory into a slot: 1,25.", show_default=False)
    ] = None
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Loads cost what a kept result says, in process or of our server.", show_default=False
        ),
    ] = None
    objective: Annotated[
        Objective | None,
        typer.Option("--objective", help="What adaptive and gdsf make small: stall.", show_default=False),
    ] = None
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="GOAL", help='How many slots and places: "hit_ratio>=0.95", "stall_p99_ms<300".'),
    ] = None


@dataclass(frozen=True, slots=True)
class LiveFlags:
    """What is there only where a server is measured."""

    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Measure the server there: http://HOST:PORT, unix:PATH.", show_default=False),
    ] = None
    forward: Annotated[
        Answering | None,
        typer.Option(
            help="Without --url: a whole model behind a server (default), or modules alone.", show_default=False
        ),
    ] = None
    api_key: Annotated[str, typer.Option(metavar="TOKEN", help="The server's bearer token.", show_default=False)] = ""
    lora_modules: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="Its adapters to ask for; else all that it lists.")
    ] = None
    max_concurrency: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Most requests at once.", show_default=False)
    ] = None
    prompts: Annotated[str, typer.Option(metavar="ids|text", help="Prompts of token ids, or of so many words.")] = "ids"
    goodput: Annotated[
        list[str] | None,
        typer.Option(metavar="MEASURE:MS...", help="What a good request keeps: ttft:500 tpot:50 e2el:9000."),
    ] = None
    control: Annotated[bool, typer.Option("--control", help="The same requests to the base alone, too.")] = False
    probe_request_rate: Annotated[
        str | None,
        typer.Option(metavar="PER_SECOND", help="Beside the load, requests of one token.", show_default=False),
    ] = None
    probe_adapter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whom these ask for: the first adapter.", show_default=False)
    ] = None
    num_seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="Runs, each with the next seed: 3.", show_default=False)
    ] = None


@dataclass(frozen=True, slots=True)
class ResultFlags:
    """What becomes of the result."""

    save_trace: Path | None = None
    save_result: Annotated[
        bool, typer.Option("--save-result", help="Keep the result as JSON, and the requests beside it.")
    ] = False
    result_dir: Annotated[Path | None, typer.Option(metavar="DIRECTORY", help="Where.", show_default=False)] = None
    result_filename: Annotated[
        str | None, typer.Option(metavar="NAME", help="Under which name.", show_default=False)
    ] = None
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="More for the JSON.")] = None
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An older result to compare with.", show_default=False)
    ] = None
    fail_if: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help='End with 1: "adaptive.stall_p99_ms>500".')
    ] = None
    output_format: Annotated[ReportFormat, typer.Option("--format", help="How to write the result.")] = (
        ReportFormat.HUMAN
    )
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None
