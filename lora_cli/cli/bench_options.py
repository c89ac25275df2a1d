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
    simulate: Annotated[bool, mode("--simulate", "Simulate the tiers alone: no adapters, no device, no server.")] = (
        False
    )
    url: Annotated[str | None, mode("--url", "Measure this server: http://HOST:PORT or unix:PATH.", metavar="URL")] = (
        None
    )
    forward: Annotated[
        Forward | None,
        mode(
            "--forward",
            "Without --url: a whole model behind a server that is started, or modules without one.",
            show_default="model",
        ),
    ] = None
    num_prompts: Annotated[
        int | None,
        workload(
            "--num-prompts",
            "The requests of each seed.",
            min=1,
            max=10_000_000,
            show_default="200; 20000 with --simulate",
        ),
    ] = None
    popularity: Annotated[
        str,
        workload(
            "--popularity",
            "How often each adapter is asked for: zipf:S, geometric:A, slora-power:A, uniform, distinct, "
            "round-robin or a file weights.json.",
            metavar="MODEL",
        ),
    ] = "zipf:1.0"
    drift: Annotated[
        str | None,
        workload("--drift", "PERCENT of the adapters change places each EVERY requests.", metavar="PERCENT,EVERY"),
    ] = None
    scan: Annotated[
        str | None, workload("--scan", "PERCENT of the requests go through all adapters in turn.", metavar="PERCENT")
    ] = None
    sessions: Annotated[
        str | None,
        workload(
            "--sessions", "So many users, who stay with an adapter for about TURNS requests.", metavar="USERS,TURNS"
        ),
    ] = None
    request_rate: Annotated[
        str,
        workload(
            "--request-rate",
            "Requests per second; inf sends all at once, with --simulate one after the other.",
            metavar="PER_SECOND",
        ),
    ] = "inf"
    burstiness: Annotated[
        str,
        workload("--burstiness", "Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier.", metavar="X"),
    ] = "1"
    ramp_up_strategy: Annotated[
        str | None, workload("--ramp-up-strategy", "How the request rate rises.", metavar="linear|exponential")
    ] = None
    ramp_up_start_rps: Annotated[
        int | None, workload("--ramp-up-start-rps", "The request rate at the beginning.", min=1)
    ] = None
    ramp_up_end_rps: Annotated[int | None, workload("--ramp-up-end-rps", "The request rate at the end.", min=1)] = None
    input_len: Annotated[str, workload("--input-len", "Prompt tokens.", metavar="N|LOW-HIGH")] = "128"
    output_len: Annotated[str, workload("--output-len", "Output tokens.", metavar="N|LOW-HIGH")] = "16"
    seed: Annotated[int, workload("--seed", "The same seed draws the same workload on every machine.", min=0)] = 0
    trace: Annotated[
        Path | None, workload("--trace", "Replay the requests of this JSON lines file.", metavar="FILE")
    ] = None
    api_key: Annotated[str, server("--api-key", "With --url: the server's bearer token.", metavar="TOKEN")] = ""
    lora_modules: Annotated[
        list[str] | None,
        server("--lora-modules", "Adapters to ask for; else all that the server lists.", metavar="NAME..."),
    ] = None
    max_concurrency: Annotated[
        int | None, server("--max-concurrency", "The most requests at once.", min=1, max=100_000)
    ] = None
    prompts: Annotated[str, server("--prompts", "Prompts are token ids, or as many words.", metavar="ids|text")] = "ids"
    goodput: Annotated[
        list[str] | None,
        server(
            "--goodput",
            "A request is good within these, for example ttft:500 tpot:50 e2el:9000.",
            metavar="MEASURE:MS...",
        ),
    ] = None
    control: Annotated[bool, server("--control", "Send the same requests to the base model too.")] = False
    probe_request_rate: Annotated[
        str | None, server("--probe-request-rate", "Send requests of one token beside the load.", metavar="PER_SECOND")
    ] = None
    probe_adapter: Annotated[
        str | None,
        server("--probe-adapter", "The adapter that these ask for.", metavar="NAME", show_default="the first"),
    ] = None
    num_seeds: Annotated[
        int | None, server("--num-seeds", "Runs, each with the next seed.", min=1, max=100, show_default="3")
    ] = None
    max_loras: Annotated[
        int | None, tier("--max-loras", "Slots: adapters on the device at once.", min=1, show_default="8")
    ] = None
    max_cpu_loras: Annotated[
        int | None, tier("--max-cpu-loras", "Adapters in memory at once.", min=1, show_default="32")
    ] = None
    max_lora_rank: Annotated[int | None, tier("--max-lora-rank", "The largest rank of a slot.", min=1)] = None
    device: Annotated[
        str | None, tier("--device", "The device that holds the slots.", metavar="auto|cpu|cuda", show_default="auto")
    ] = None
    eviction: Annotated[
        str | None,
        tier(
            "--eviction",
            "Which adapter leaves a full tier; with --simulate several of lru, fifo, lfu, gdsf, adaptive and opt.",
            metavar="NAME,...",
            show_default="adaptive; with --simulate lru,lfu,gdsf,adaptive,opt",
        ),
    ] = None
    num_adapters: Annotated[
        int | None,
        synthetic(
            "--num-adapters",
            "Measure so many synthetic adapters instead of REFs.",
            min=1,
            max=100_000,
            show_default="500 with --simulate",
        ),
    ] = None
    ranks: Annotated[
        str | None, synthetic("--ranks", "Ranks of synthetic adapters.", metavar="RANK:SHARE,...", show_default="16")
    ] = None
    bytes_per_rank: Annotated[
        str | None,
        simulated(
            "--bytes-per-rank",
            "Bytes of an adapter for each rank, as of Llama-3-8B.",
            metavar="SIZE",
            show_default="5MiB",
        ),
    ] = None
    max_gpu_bytes: Annotated[
        str | None, simulated("--max-gpu-bytes", "Bytes of all slots; else all are equally large.", metavar="SIZE")
    ] = None
    max_cpu_bytes: Annotated[
        str | None, simulated("--max-cpu-bytes", "Bytes in memory; else only their number counts.", metavar="SIZE")
    ] = None
    disk_link: Annotated[
        str | None,
        simulated("--disk-link", "What a load from disk into memory takes.", metavar="MS,GB/S", show_default="2,7"),
    ] = None
    gpu_link: Annotated[
        str | None,
        simulated("--gpu-link", "What a load from memory into a slot takes.", metavar="MS,GB/S", show_default="1,25"),
    ] = None
    measured: Annotated[
        Path | None, simulated("--measured", "Loads take what this saved result measured.", metavar="FILE")
    ] = None
    objective: Annotated[
        Objective | None, simulated("--objective", "What adaptive and gdsf make small.", show_default="stall")
    ] = None
    plan: Annotated[
        list[str] | None,
        simulated(
            "--plan",
            'Find the smallest tiers that reach a goal, for example "hit_ratio>=0.95"; may be repeated.',
            metavar="GOAL",
        ),
    ] = None
    save_trace: Annotated[Path | None, result("--save-trace", "Write the requests as JSON lines.", metavar="FILE")] = (
        None
    )
    save_result: Annotated[bool, result("--save-result", "Save the result as JSON, and the requests beside it.")] = (
        False
    )
    result_dir: Annotated[
        Path | None, result("--result-dir", "Where to save the result.", metavar="DIRECTORY", show_default=".")
    ] = None
    result_filename: Annotated[
        str | None, result("--result-filename", "The name of the saved result.", metavar="NAME")
    ] = None
    metadata: Annotated[
        list[str] | None, result("--metadata", "Add this to the saved result; may be repeated.", metavar="KEY=VALUE")
    ] = None
    baseline: Annotated[Path | None, result("--baseline", "Compare with this saved result.", metavar="FILE")] = None
    fail_if: Annotated[
        list[str] | None,
        result(
            "--fail-if",
            'Exit with 1 if so, for example "adaptive.stall_p99_ms>500"; may be repeated.',
            metavar="CONDITION",
        ),
    ] = None
    output_format: Annotated[ReportFormat, result("--format", "The format of the result.")] = "human"
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
