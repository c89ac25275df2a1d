"""What the command line of ``lora-cli serve-bench`` asks for: its options, and the workload, made or read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from lora_cli.bench.popularity import Counted, Popularity, read_popularity
from lora_cli.bench.trace import Trace, read_trace, trace_lines
from lora_cli.bench.workload import Ramp, Shape, Traffic, make_requests, parse_lengths, parse_rate, ramp_of, shape_of
from lora_cli.cli import options
from lora_cli.cli.options import option, result
from lora_cli.cli.output import ReportFormat, write
from lora_cli.core.text import safe
from lora_cli.errors import UsageError
from lora_cli.runtime.plan import Forward
from lora_cli.tiers.budget import Objective

mode = partial(option, default=None, panel="What is measured")
workload = partial(option, default=None, panel="Workload")
tier = partial(option, default=None, panel="Tiers")
simulation = partial(option, default=None, panel="Simulation (--simulate)")
synthetic = partial(option, default=None, panel="Synthetic adapters")
server = partial(option, default=None, panel="A server (--url, or the one that is started)")
"""``option`` for the panels of ``serve-bench``; without ``default`` an option is None until it is given."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options, and what was given of each: not a None, a False or an empty list, nor an empty base or API key."""

    ctx: typer.Context
    refs: options.Refs = None
    manifest: options.Manifest = None
    base: options.Base = ""
    policy: options.PolicyFile = None
    simulate: bool = mode("--simulate", "Simulate the tiers alone: no adapters, no device, no server.", default=False)
    url: str | None = mode("--url URL", "Measure this server: http://HOST:PORT or unix:PATH.")
    forward: Forward | None = mode(
        "--forward",
        "Without --url: a whole model behind a server that is started, or modules without one.",
        show_default="model",
    )
    num_prompts: int | None = workload(
        "--num-prompts", "The requests of each seed.", min=1, max=10_000_000, show_default="200; 20000 with --simulate"
    )
    popularity: str = workload(
        "--popularity MODEL",
        "How often each adapter is asked for: zipf:S, geometric:A, slora-power:A, uniform, distinct, "
        "round-robin or a file weights.json.",
        default="zipf:1.0",
    )
    drift: str | None = workload("--drift PERCENT,EVERY", "PERCENT of the adapters change places each EVERY requests.")
    scan: str | None = workload("--scan PERCENT", "PERCENT of the requests go through all adapters in turn.")
    sessions: str | None = workload(
        "--sessions USERS,TURNS", "So many users, who stay with an adapter for about TURNS requests."
    )
    request_rate: str = workload(
        "--request-rate PER_SECOND",
        "Requests per second; inf sends all at once, with --simulate one after the other.",
        default="inf",
    )
    burstiness: str = workload(
        "--burstiness X", "Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier.", default="1"
    )
    ramp_up_strategy: str | None = workload("--ramp-up-strategy linear|exponential", "How the request rate rises.")
    ramp_up_start_rps: int | None = workload("--ramp-up-start-rps", "The request rate at the beginning.", min=1)
    ramp_up_end_rps: int | None = workload("--ramp-up-end-rps", "The request rate at the end.", min=1)
    input_len: str = workload("--input-len N|LOW-HIGH", "Prompt tokens.", default="128")
    output_len: str = workload("--output-len N|LOW-HIGH", "Output tokens.", default="16")
    seed: int = workload("--seed", "The same seed draws the same workload on every machine.", default=0, min=0)
    trace: Path | None = workload("--trace FILE", "Replay the requests of this JSON lines file.")
    api_key: str = server("--api-key TOKEN", "With --url: the server's bearer token.", default="")
    lora_modules: list[str] | None = server(
        "--lora-modules NAME...", "Adapters to ask for; else all that the server lists."
    )
    max_concurrency: int | None = server("--max-concurrency", "The most requests at once.", min=1, max=100_000)
    prompts: str = server("--prompts ids|text", "Prompts are token ids, or as many words.", default="ids")
    goodput: list[str] | None = server(
        "--goodput MEASURE:MS...", "A request is good within these, for example ttft:500 tpot:50 e2el:9000."
    )
    control: bool = server("--control", "Send the same requests to the base model too.", default=False)
    probe_request_rate: str | None = server(
        "--probe-request-rate PER_SECOND", "Send requests of one token beside the load."
    )
    probe_adapter: str | None = server(
        "--probe-adapter NAME", "The adapter that these ask for.", show_default="the first"
    )
    num_seeds: int | None = server("--num-seeds", "Runs, each with the next seed.", min=1, max=100, show_default="3")
    max_loras: int | None = tier("--max-loras", "Slots: adapters on the device at once.", min=1, show_default="8")
    max_cpu_loras: int | None = tier("--max-cpu-loras", "Adapters in memory at once.", min=1, show_default="32")
    max_lora_rank: int | None = tier("--max-lora-rank", "The largest rank of a slot.", min=1)
    device: str | None = tier("--device auto|cpu|cuda", "The device that holds the slots.", show_default="auto")
    eviction: str | None = tier(
        "--eviction NAME,...",
        "Which adapter leaves a full tier; with --simulate several of lru, fifo, lfu, gdsf, adaptive and opt.",
        show_default="adaptive; with --simulate lru,lfu,gdsf,adaptive,opt",
    )
    num_adapters: int | None = synthetic(
        "--num-adapters",
        "Measure so many synthetic adapters instead of REFs.",
        min=1,
        max=100_000,
        show_default="500 with --simulate",
    )
    ranks: str | None = synthetic("--ranks RANK:SHARE,...", "Ranks of synthetic adapters.", show_default="16")
    bytes_per_rank: str | None = simulation(
        "--bytes-per-rank SIZE", "Bytes of an adapter for each rank, as of Llama-3-8B.", show_default="5MiB"
    )
    max_gpu_bytes: str | None = simulation("--max-gpu-bytes SIZE", "Bytes of all slots; else all are equally large.")
    max_cpu_bytes: str | None = simulation("--max-cpu-bytes SIZE", "Bytes in memory; else only their number counts.")
    disk_link: str | None = simulation(
        "--disk-link MS,GB/S", "What a load from disk into memory takes.", show_default="2,7"
    )
    gpu_link: str | None = simulation(
        "--gpu-link MS,GB/S", "What a load from memory into a slot takes.", show_default="1,25"
    )
    measured: Path | None = simulation("--measured FILE", "Loads take what this saved result measured.")
    objective: Objective | None = simulation("--objective", "What adaptive and gdsf make small.", show_default="stall")
    plan: list[str] | None = simulation(
        "--plan GOAL", 'Find the smallest tiers that reach a goal, for example "hit_ratio>=0.95"; may be repeated.'
    )
    save_trace: Path | None = result("--save-trace FILE", "Write the requests as JSON lines.")
    save_result: bool = result("--save-result", "Save the result as JSON, and the requests beside it.", default=False)
    result_dir: Path | None = result("--result-dir DIRECTORY", "Where to save the result.", show_default=".")
    result_filename: str | None = result("--result-filename NAME", "The name of the saved result.")
    metadata: list[str] | None = result("--metadata KEY=VALUE", "Add this to the saved result; may be repeated.")
    baseline: Path | None = result("--baseline FILE", "Compare with this saved result.")
    fail_if: list[str] | None = result(
        "--fail-if CONDITION", 'Exit with 1 if so, for example "adaptive.stall_p99_ms>500"; may be repeated.'
    )
    output_format: ReportFormat = result("--format", "The format of the result.", default="human")
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


RANKS = "16"
"""The ranks of synthetic adapters where nobody says."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What was said of it, read: a trace is replayed, or made when the adapters are known."""

    options: BenchOptions
    popularity: Popularity | Counted
    shape: Shape
    request_rate: float
    burstiness: float
    replayed: Trace | None
    ramp: Ramp | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that a trace or a file of weights names; none where neither does."""
        if self.replayed is not None:
            return self.replayed.names
        return getattr(self.popularity, "names", ())

    def words(self) -> dict[str, str]:
        """What a reader of the result needs to know of it."""
        options = self.options
        if options.trace is not None:
            return {"trace": safe(options.trace)}
        said = {"popularity": safe(options.popularity)}
        said |= {self.shape.kind: ",".join(map(str, self.shape.numbers))} if self.shape.numbers else {}
        if options.request_rate != "inf":
            said |= {"request_rate": options.request_rate, "burstiness": options.burstiness}
        if self.ramp is not None:
            said |= {"ramp_up": str(self.ramp), "burstiness": options.burstiness}
        return said | {"input_len": options.input_len, "output_len": options.output_len}

    def over(self, names: Sequence[str], usual: int, seed: int) -> Trace:
        """The trace over these adapters, of ``usual`` requests where nobody says how many.

        Raises:
            UsageError: the trace or the weights are of others.
        """
        if self.replayed is not None:
            known = frozenset(names)
            for name in self.replayed.names:
                if name not in known:
                    none = f"is none of the {len(names)} adapters that are measured"
                    raise UsageError(f"{self.options.trace}: {safe(name)} {none}")
            return self.replayed
        popularity = self.popularity
        traffic = Traffic(
            popularity.over(names) if isinstance(popularity, Counted) else popularity,
            self.options.num_prompts or usual,
            seed,
            self.shape,
            self.request_rate,
            self.burstiness,
            parse_lengths(self.options.input_len, "--input-len"),
            parse_lengths(self.options.output_len, "--output-len"),
            self.ramp,
        )
        return make_requests(names, traffic)


def workload_of(options: BenchOptions) -> Workload:
    """The workload that is asked for.

    Raises:
        LoraCliError: a word is wrong, or a file cannot be read.
    """
    shape = shape_of(options.drift, options.scan, options.sessions)
    popularity = read_popularity(options.popularity)
    rate = parse_rate(options.request_rate, "--request-rate")
    burstiness = parse_rate(options.burstiness, "--burstiness")
    ramp = ramp_of(options.ramp_up_strategy, options.ramp_up_start_rps, options.ramp_up_end_rps)
    if ramp is not None and options.request_rate != "inf":
        raise UsageError("--request-rate and --ramp-up-strategy exclude each other", hint="a ramp has its own rates")
    made: dict[str, object] = {"--num-prompts": options.num_prompts, f"--{shape.kind}": shape.numbers}
    made |= {"--request-rate": options.request_rate != "inf", "--ramp-up-strategy": ramp}
    for flag in (flag for flag, said in made.items() if said and options.trace is not None):
        raise UsageError(f"{flag} and --trace exclude each other", hint="a trace says who is asked for, and when")
    replayed = read_trace(options.trace) if options.trace is not None else None
    return Workload(options, popularity, shape, rate, burstiness, replayed, ramp)


def adapter_names(named: Sequence[str], number: int | None, usual: int = 1) -> Sequence[str]:
    """The adapters: those that the trace or the weights name, else so many.

    Raises:
        UsageError: they are not as many as ``number`` says.
    """
    if named and number is not None and number != len(named):
        raise UsageError(
            f"--num-adapters is {number}, and the workload names {len(named)} adapters",
            hint=f"--num-adapters {len(named)}",
        )
    return named or [f"a{place}" for place in range(number or usual)]


def save_trace(trace: Trace, file: Path | None) -> None:
    """Write every request as a line, where a file is named.

    Raises:
        MachineError: it cannot be written.
    """
    if file is None:
        return
    write("".join(trace_lines(trace)), file)
