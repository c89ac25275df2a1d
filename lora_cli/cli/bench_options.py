"""The options of ``lora-cli serve-bench``, and its workload: generated, or read from a trace."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import typer

from lora_cli.bench.generated_traces import STATISTICS, TraceStatistics, generate_arrivals
from lora_cli.bench.popularity import read_popularity
from lora_cli.bench.public_traces import Arrivals, join_adapters, read_arrivals
from lora_cli.bench.trace import Trace, read_trace, trace_lines
from lora_cli.bench.workload import SyntheticWorkload, chosen_pattern, make_requests, parse_lengths, parse_rate, ramp_of
from lora_cli.cli import options
from lora_cli.cli.options import option, result
from lora_cli.cli.output import ReportFormat, write
from lora_cli.core.did_you_mean import nearest
from lora_cli.core.text import safe
from lora_cli.errors import NotFound, UsageError
from lora_cli.runtime.plan import Forward

SHARED = frozenset({"base", "policy", "ray"})
"""Options of other commands too: where they have no effect, their variables are not refused."""

mode = partial(option, default=None, panel="What to measure")
workload = partial(option, default=None, panel="Workload")
tier = partial(option, default=None, panel="Tiers")
simulation = partial(option, default=None, panel="Simulation (--simulate)")
synthetic = partial(option, default=None, panel="Synthetic adapters")
server = partial(option, default=None, panel="Server (--url, or started by serve-bench)")
"""``option`` for the panels of ``serve-bench``; the default is None."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The parsed options. None, False, an empty list, and an empty base or API key mean that one is not given."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    base: options.Base = ""
    policy: options.PolicyFile = None
    simulate: bool = mode("--simulate", "Simulate the tiers only: no adapters, no device, no server.", default=False)
    url: str | None = mode("--url URL", "Measure this server: http://HOST:PORT or unix:PATH.")
    forward: Forward | None = mode(
        "--forward",
        "Without --url: start a server with the whole model, or use modules without a server.",
        show_default="model",
    )
    num_prompts: int | None = workload(
        "--num-prompts", "Requests per seed.", min=1, max=10_000_000, show_default="200; 20000 with --simulate"
    )
    popularity: str = workload(
        "--popularity MODEL",
        "How often each adapter is requested: zipf:S, geometric:A, slora-power:A, uniform, distinct, "
        "round-robin, or a file: weights.json, or a CSV of Azure Functions.",
        default="zipf:1.0",
    )
    drift: str | None = workload(
        "--drift PERCENT,EVERY", "PERCENT of the adapters change popularity every EVERY requests."
    )
    scan: str | None = workload("--scan PERCENT", "PERCENT of the requests cycle through all adapters.")
    sessions: str | None = workload(
        "--sessions USERS,TURNS", "USERS users, each using an adapter for about TURNS requests."
    )
    request_rate: str = workload(
        "--request-rate PER_SECOND",
        "Requests per second; inf sends all at once, with --simulate one after the other.",
        default="inf",
    )
    burstiness: str = workload(
        "--burstiness X", "Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier.", default="1"
    )
    ramp_up_strategy: str | None = workload("--ramp-up-strategy linear|exponential", "How the request rate increases.")
    ramp_up_start_rps: int | None = workload("--ramp-up-start-rps", "Request rate at the start.", min=1)
    ramp_up_end_rps: int | None = workload("--ramp-up-end-rps", "Request rate at the end.", min=1)
    input_len: str = workload("--input-len N|LOW-HIGH", "Prompt tokens.", default="128")
    output_len: str = workload("--output-len N|LOW-HIGH", "Output tokens.", default="16")
    seed: int = workload("--seed", "Random seed; it draws the same workload on every machine.", default=0, min=0)
    trace: Path | None = workload(
        "--trace FILE|NAME",
        "Replay these requests: JSON lines, or a CSV of Azure LLM inference or BurstGPT; or generate some with the "
        f"statistics of {', '.join(STATISTICS)}.",
    )
    api_key: str = server("--api-key TOKEN", "With --url: bearer token of the server.", default="")
    lora_modules: list[str] | None = server(
        "--lora-modules NAME...", "Adapters to request; default: all that the server lists."
    )
    max_concurrency: int | None = server(
        "--max-concurrency", "Maximum number of concurrent requests.", min=1, max=100_000
    )
    prompts: str = server("--prompts ids|text", "Send token ids, or text of as many words.", default="ids")
    goodput: list[str] | None = server(
        "--goodput MEASURE:MS...", "SLOs of a good request, for example ttft:500 tpot:50 e2el:9000."
    )
    control: bool = server("--control", "Also send the same requests to the base model.", default=False)
    probe_request_rate: str | None = server(
        "--probe-request-rate PER_SECOND", "Send one-token requests during the load."
    )
    probe_adapter: str | None = server(
        "--probe-adapter NAME", "Adapter of the probe requests.", show_default="the first"
    )
    num_seeds: int | None = server(
        "--num-seeds", "Number of runs, each with the next seed.", min=1, max=100, show_default="3"
    )
    save_links: Path | None = server("--save-links FILE", "Save the load costs of the server, for --links.")
    max_loras: int | None = tier("--max-loras", "Slots: number of adapters on the device.", min=1, show_default="8")
    max_cpu_loras: int | None = tier("--max-cpu-loras", "Number of adapters in memory.", min=1, show_default="32")
    max_lora_rank: int | None = tier("--max-lora-rank", "Maximum rank of a slot.", min=1)
    device: str | None = tier("--device auto|cpu|cuda", "Device of the slots.", show_default="auto")
    eviction: str | None = tier(
        "--eviction NAME,...",
        "Eviction policy; with --simulate several of lru, fifo, lfu and opt.",
        show_default="lru; with --simulate lru,lfu,opt",
    )
    num_adapters: int | None = synthetic(
        "--num-adapters",
        "Use N synthetic adapters instead of REFs.",
        min=1,
        max=100_000,
        show_default="500 with --simulate",
    )
    ranks: str | None = synthetic("--ranks RANK:SHARE,...", "Ranks of synthetic adapters.", show_default="16")
    bytes_per_rank: str | None = simulation(
        "--bytes-per-rank SIZE", "Bytes of an adapter per rank, as for Llama-3-8B.", show_default="5MiB"
    )
    max_gpu_bytes: str | None = simulation(
        "--max-gpu-bytes SIZE", "Bytes of all slots; default: all slots have the same size."
    )
    max_cpu_bytes: str | None = simulation(
        "--max-cpu-bytes SIZE", "Bytes in memory; default: only the number of adapters counts."
    )
    disk_link: str | None = simulation(
        "--disk-link MS,GB/S", "Latency and bandwidth of a load from disk into memory.", show_default="2,7"
    )
    gpu_link: str | None = simulation(
        "--gpu-link MS,GB/S", "Latency and bandwidth of a load from memory into a slot.", show_default="1,25"
    )
    links: str | None = simulation(
        "--links ENGINE|FILE",
        "Load costs of vllm, sglang or lora-cli, or a file of --save-links.",
        show_default="lora-cli",
    )
    step: str | None = simulation(
        "--step MS,US", "Model the steps of an engine: milliseconds each, and microseconds per token in it."
    )
    max_num_seqs: int | None = simulation(
        "--max-num-seqs", "With --step: requests in a batch.", min=1, max=100_000, show_default="256"
    )
    max_num_batched_tokens: int | None = simulation(
        "--max-num-batched-tokens", "With --step: tokens in a step.", min=1, max=10_000_000, show_default="2048"
    )
    measured: Path | None = simulation("--measured FILE", "Use the load times of this saved result.")
    live_result: Path | None = simulation(
        "--live-result FILE", "Print the error against this saved live result of the same requests."
    )
    plan: list[str] | None = simulation(
        "--plan GOAL", 'Find the smallest tiers that reach a goal, for example "hit_ratio>=0.95"; may be repeated.'
    )
    sweep: list[str] | None = simulation(
        "--sweep NAME=N,...",
        "Simulate each of these sizes: max-loras=8,16,32 or max-cpu-loras=32,128; may be repeated.",
    )
    ray: options.Ray = None
    save_trace: Path | None = result("--save-trace FILE", "Write the requests as JSON lines.")
    save_result: bool = result("--save-result", "Save the result as JSON, and the requests next to it.", default=False)
    result_dir: Path | None = result("--result-dir DIRECTORY", "Directory of the saved result.", show_default=".")
    result_filename: str | None = result("--result-filename NAME", "File name of the saved result.")
    metadata: list[str] | None = result("--metadata KEY=VALUE", "Add this to the saved result; may be repeated.")
    baseline: Path | None = result("--baseline FILE", "Compare with this saved result.")
    fail_if: list[str] | None = result(
        "--fail-if CONDITION",
        'Exit with 1 if true or not measured, such as "lru.stall_p99_ms>500"; may be repeated.',
    )
    output_format: ReportFormat = result("--format", "The format of the result.", default="human")
    output: options.OutputFile = None

    def given(self, names: Iterable[str]) -> Iterator[str]:
        """The flags of the given options among ``names``."""
        for name in names:
            value = getattr(self, name)
            unset = value is None or value is False or value == [] or (value == "" and name in {"base", "api_key"})
            if not unset and not (name in SHARED and options.origin_of(self.ctx, name) == "ENVIRONMENT"):
                yield {"refs": "REFs", "manifest": "-f"}.get(name, f"--{name.replace('_', '-')}")

    def refuse(self, names: Iterable[str], why: str, hint: str = "") -> None:
        """Rejects options that would have no effect.

        Raises:
            UsageError: one was given.
        """
        for flag in self.given(names):
            raise UsageError(f"{flag} {'are' if flag == 'REFs' else 'is'} {why}", hint=hint)


RANKS = "16"
"""Default ranks of synthetic adapters."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The parsed workload: a ``replayed`` trace, or ``traffic`` to generate one from when the adapters are known.

    ``arrivals`` are the times and tokens of a public trace, whose adapters are those of ``traffic``; ``published`` has
    the statistics to generate them from.
    """

    options: BenchOptions
    traffic: SyntheticWorkload
    replayed: Trace | None
    arrivals: Arrivals | None = None
    statistics: TraceStatistics | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in the trace or the file of weights; empty without these."""
        if self.replayed is not None:
            return self.replayed.names
        return getattr(self.traffic.popularity, "names", ())

    @property
    def request_rate(self) -> float | None:
        """The constant request rate; None for a trace and for a ramp, which have times."""
        return self.traffic.request_rate if self.options.trace is None and self.traffic.ramp is None else None

    def summary(self) -> dict[str, str]:
        """The workload's parameters, for the report."""
        options, shape, ramp = self.options, self.traffic.pattern, self.traffic.ramp
        if self.replayed is not None:
            return {"trace": safe(options.trace)}
        found = {"popularity": safe(options.popularity)}
        found |= {shape.kind: ",".join(map(str, shape.numbers))} if shape.numbers else {}
        if self.arrivals is not None:
            return {"trace": safe(options.trace), "arrivals": self.arrivals.title} | found
        if self.statistics is not None:
            rate = {"request_rate": options.request_rate} if options.request_rate != "inf" else {}
            return {"trace": safe(options.trace), "arrivals": self.statistics.title} | rate | found
        if options.request_rate != "inf":
            found |= {"request_rate": options.request_rate, "burstiness": options.burstiness}
        if ramp is not None:
            found |= {"ramp_up": str(ramp), "burstiness": options.burstiness}
        return found | {"input_len": options.input_len, "output_len": options.output_len}

    def trace_for(self, names: Sequence[str], usual: int, seed: int) -> Trace:
        """The trace over these adapters, with ``usual`` requests unless --num-prompts is given.

        Raises:
            UsageError: the trace or the weights have other adapters.
        """
        if self.replayed is not None:
            known = frozenset(names)
            for name in self.replayed.names:
                if name not in known:
                    none = f"is not one of the {len(names)} measured adapters"
                    raise UsageError(f"{self.options.trace}: {safe(name)} {none}")
            return self.replayed
        if self.arrivals is not None:
            return join_adapters(self.arrivals, names, replace(self.traffic, seed=seed))
        if self.statistics is not None:
            requests = self.options.num_prompts or usual
            drawn = generate_arrivals(self.statistics, requests, seed, self.traffic.request_rate)
            return join_adapters(drawn, names, replace(self.traffic, seed=seed))
        traffic = replace(
            self.traffic,
            requests=self.options.num_prompts or usual,
            seed=seed,
            input_len=parse_lengths(self.options.input_len, "--input-len"),
            output_len=parse_lengths(self.options.output_len, "--output-len"),
        )
        return make_requests(names, traffic)


def parse_workload(options: BenchOptions) -> Workload:
    """The workload of the options.

    Raises:
        LoraCliError: a value is invalid, or a file cannot be read.
    """
    shape = chosen_pattern(options.drift, options.scan, options.sessions)
    popularity = read_popularity(options.popularity)
    rate = parse_rate(options.request_rate, "--request-rate")
    burstiness = parse_rate(options.burstiness, "--burstiness")
    ramp = ramp_of(options.ramp_up_strategy, options.ramp_up_start_rps, options.ramp_up_end_rps)
    if ramp is not None and options.request_rate != "inf":
        raise UsageError(
            "--request-rate and --ramp-up-strategy cannot be used together", hint="a ramp has its own rates"
        )
    statistics = STATISTICS.get(str(options.trace))
    if options.trace is not None and statistics is None and not options.trace.exists():
        known = nearest(str(options.trace), STATISTICS)
        hint = f"did you mean {known}?" if known else f"a file of --save-trace, or {' or '.join(STATISTICS)}"
        raise NotFound(f"{options.trace}: trace not found", hint=hint)
    arrivals = read_arrivals(options.trace) if options.trace is not None and statistics is None else None
    unused: dict[str, object] = {"--ramp-up-strategy": ramp, "--burstiness": burstiness != 1}
    unused |= {"--input-len": options.input_len != "128", "--output-len": options.output_len != "16"}
    if statistics is None:
        unused |= {"--num-prompts": options.num_prompts, "--request-rate": options.request_rate != "inf"}
        unused |= {f"--{shape.kind}": shape.numbers} if arrivals is None else {}
    for flag in (flag for flag, given in unused.items() if given and options.trace is not None):
        raise UsageError(f"{flag} and --trace cannot be used together", hint="a trace has its own times and tokens")
    is_replayed = options.trace is not None and statistics is None and arrivals is None
    replayed = read_trace(options.trace) if is_replayed and options.trace is not None else None
    traffic = SyntheticWorkload(popularity, 0, pattern=shape, request_rate=rate, burstiness=burstiness, ramp=ramp)
    return Workload(options, traffic, replayed, arrivals, statistics)


def adapter_names(named: Sequence[str], number: int | None, usual: int = 1) -> Sequence[str]:
    """The adapters: those in the trace or the weights, else ``number`` generated names.

    Raises:
        UsageError: ``number`` differs from the number of named adapters.
    """
    if named and number is not None and number != len(named):
        raise UsageError(
            f"--num-adapters is {number}, but the workload names {len(named)} adapters",
            hint=f"--num-adapters {len(named)}",
        )
    return named or [f"a{place}" for place in range(number or usual)]


def save_trace(trace: Trace, file: Path | None) -> None:
    """Writes every request as a line of ``file``, if there is one.

    Raises:
        MachineError: it cannot be written.
    """
    if file is None:
        return
    write("".join(trace_lines(trace)), file)
