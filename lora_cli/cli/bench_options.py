"""What the command line of ``lora-cli serve-bench`` asks for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lora_cli.cli import options
from lora_cli.cli.options import OUTPUT, option
from lora_cli.cli.output import ReportFormat
from lora_cli.cli.warming import Forward
from lora_cli.errors import UsageError
from lora_cli.tiers.view import Objective

mode = partial(option, panel="What is measured")
workload = partial(option, panel="Workload")
tier = partial(option, panel="Tiers")
simulated = partial(option, panel="Simulation (--simulate)")
synthetic = partial(option, panel="Synthetic adapters")
server = partial(option, panel="A server (--url, or the one that is started)")
result = partial(option, panel=OUTPUT)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options, and what was given of each: not a None, a False or an empty list, nor an empty base or API key."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    base: options.Base = ""
    policy: options.PolicyFile = None
    simulate: Annotated[
        bool, mode("--simulate", help="Simulate the tiers alone: no adapters, no device, no server.")
    ] = False
    url: Annotated[
        str | None, mode("--url", metavar="URL", help="Measure this server: http://HOST:PORT or unix:PATH.")
    ] = None
    forward: Annotated[
        Forward | None,
        mode(
            "--forward",
            help="Without --url: a whole model behind a server that is started, or modules without one.",
            show_default="model",
        ),
    ] = None
    num_prompts: Annotated[
        int | None,
        workload(
            "--num-prompts",
            min=1,
            max=10_000_000,
            help="The requests of each seed.",
            show_default="200; 20000 with --simulate",
        ),
    ] = None
    popularity: Annotated[
        str,
        workload(
            "--popularity",
            metavar="MODEL",
            help="How often each adapter is asked for: zipf:S, geometric:A, slora-power:A, uniform, distinct, "
            "round-robin or a file weights.json.",
        ),
    ] = "zipf:1.0"
    drift: Annotated[
        str | None,
        workload("--drift", metavar="PERCENT,EVERY", help="PERCENT of the adapters change places each EVERY requests."),
    ] = None
    scan: Annotated[
        str | None,
        workload("--scan", metavar="PERCENT", help="PERCENT of the requests go through all adapters in turn."),
    ] = None
    sessions: Annotated[
        str | None,
        workload(
            "--sessions",
            metavar="USERS,TURNS",
            help="So many users, who stay with an adapter for about TURNS requests.",
        ),
    ] = None
    request_rate: Annotated[
        str,
        workload(
            "--request-rate",
            metavar="PER_SECOND",
            help="Requests per second; inf sends all at once, with --simulate one after the other.",
        ),
    ] = "inf"
    burstiness: Annotated[
        str,
        workload(
            "--burstiness", metavar="X", help="Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier."
        ),
    ] = "1"
    ramp_up_strategy: Annotated[
        str | None, workload("--ramp-up-strategy", metavar="linear|exponential", help="How the request rate rises.")
    ] = None
    ramp_up_start_rps: Annotated[
        int | None, workload("--ramp-up-start-rps", min=1, help="The request rate at the beginning.")
    ] = None
    ramp_up_end_rps: Annotated[
        int | None, workload("--ramp-up-end-rps", min=1, help="The request rate at the end.")
    ] = None
    input_len: Annotated[str, workload("--input-len", metavar="N|LOW-HIGH", help="Prompt tokens.")] = "128"
    output_len: Annotated[str, workload("--output-len", metavar="N|LOW-HIGH", help="Output tokens.")] = "16"
    seed: Annotated[int, workload("--seed", min=0, help="The same seed draws the same workload on every machine.")] = 0
    trace: Annotated[
        Path | None, workload("--trace", metavar="FILE", help="Replay the requests of this JSON lines file.")
    ] = None
    api_key: Annotated[str, server("--api-key", metavar="TOKEN", help="With --url: the server's bearer token.")] = ""
    lora_modules: Annotated[
        list[str] | None,
        server("--lora-modules", metavar="NAME...", help="Adapters to ask for; else all that the server lists."),
    ] = None
    max_concurrency: Annotated[
        int | None, server("--max-concurrency", min=1, max=100_000, help="The most requests at once.")
    ] = None
    prompts: Annotated[
        str, server("--prompts", metavar="ids|text", help="Prompts are token ids, or as many words.")
    ] = "ids"
    goodput: Annotated[
        list[str] | None,
        server(
            "--goodput",
            metavar="MEASURE:MS...",
            help="A request is good within these, for example ttft:500 tpot:50 e2el:9000.",
        ),
    ] = None
    control: Annotated[bool, server("--control", help="Send the same requests to the base model too.")] = False
    probe_request_rate: Annotated[
        str | None,
        server("--probe-request-rate", metavar="PER_SECOND", help="Send requests of one token beside the load."),
    ] = None
    probe_adapter: Annotated[
        str | None,
        server("--probe-adapter", metavar="NAME", help="The adapter that these ask for.", show_default="the first"),
    ] = None
    num_seeds: Annotated[
        int | None, server("--num-seeds", min=1, max=100, help="Runs, each with the next seed.", show_default="3")
    ] = None
    max_loras: Annotated[
        int | None, tier("--max-loras", min=1, help="Slots: adapters on the device at once.", show_default="8")
    ] = None
    max_cpu_loras: Annotated[
        int | None, tier("--max-cpu-loras", min=1, help="Adapters in memory at once.", show_default="32")
    ] = None
    max_lora_rank: Annotated[int | None, tier("--max-lora-rank", min=1, help="The largest rank of a slot.")] = None
    device: Annotated[
        str | None,
        tier("--device", metavar="auto|cpu|cuda", help="The device that holds the slots.", show_default="auto"),
    ] = None
    eviction: Annotated[
        str | None,
        tier(
            "--eviction",
            metavar="NAME,...",
            help="Which adapter leaves a full tier; with --simulate several of lru, fifo, lfu, gdsf, adaptive and opt.",
            show_default="adaptive; with --simulate lru,lfu,gdsf,adaptive,opt",
        ),
    ] = None
    num_adapters: Annotated[
        int | None,
        synthetic(
            "--num-adapters",
            min=1,
            max=100_000,
            help="Measure so many synthetic adapters instead of REFs.",
            show_default="500 with --simulate",
        ),
    ] = None
    ranks: Annotated[
        str | None,
        synthetic("--ranks", metavar="RANK:SHARE,...", help="Ranks of synthetic adapters.", show_default="16"),
    ] = None
    bytes_per_rank: Annotated[
        str | None,
        simulated(
            "--bytes-per-rank",
            metavar="SIZE",
            help="Bytes of an adapter for each rank, as of Llama-3-8B.",
            show_default="5MiB",
        ),
    ] = None
    max_gpu_bytes: Annotated[
        str | None,
        simulated("--max-gpu-bytes", metavar="SIZE", help="Bytes of all slots; else all are equally large."),
    ] = None
    max_cpu_bytes: Annotated[
        str | None,
        simulated("--max-cpu-bytes", metavar="SIZE", help="Bytes in memory; else only their number counts."),
    ] = None
    disk_link: Annotated[
        str | None,
        simulated(
            "--disk-link", metavar="MS,GB/S", help="What a load from disk into memory takes.", show_default="2,7"
        ),
    ] = None
    gpu_link: Annotated[
        str | None,
        simulated(
            "--gpu-link", metavar="MS,GB/S", help="What a load from memory into a slot takes.", show_default="1,25"
        ),
    ] = None
    measured: Annotated[
        Path | None, simulated("--measured", metavar="FILE", help="Loads take what this saved result measured.")
    ] = None
    objective: Annotated[
        Objective | None, simulated("--objective", help="What adaptive and gdsf make small.", show_default="stall")
    ] = None
    plan: Annotated[
        list[str] | None,
        simulated(
            "--plan",
            metavar="GOAL",
            help='Find the smallest tiers that reach a goal, for example "hit_ratio>=0.95"; may be repeated.',
        ),
    ] = None
    save_trace: Annotated[
        Path | None, result("--save-trace", metavar="FILE", help="Write the requests as JSON lines.")
    ] = None
    save_result: Annotated[
        bool, result("--save-result", help="Save the result as JSON, and the requests beside it.")
    ] = False
    result_dir: Annotated[
        Path | None, result("--result-dir", metavar="DIRECTORY", help="Where to save the result.", show_default=".")
    ] = None
    result_filename: Annotated[
        str | None, result("--result-filename", metavar="NAME", help="The name of the saved result.")
    ] = None
    metadata: Annotated[
        list[str] | None,
        result("--metadata", metavar="KEY=VALUE", help="Add this to the saved result; may be repeated."),
    ] = None
    baseline: Annotated[Path | None, result("--baseline", metavar="FILE", help="Compare with this saved result.")] = (
        None
    )
    fail_if: Annotated[
        list[str] | None,
        result(
            "--fail-if",
            metavar="CONDITION",
            help='Exit with 1 if so, for example "adaptive.stall_p99_ms>500"; may be repeated.',
        ),
    ] = None
    output_format: Annotated[ReportFormat, result("--format", help="The format of the result.")] = "human"
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
