"""The options of ``lora-cli serve-bench``, and its workload: generated, or read from a trace."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import typer

from lora_cli.bench.popularity import read_popularity
from lora_cli.bench.trace import Trace, read_trace, trace_lines
from lora_cli.bench.workload import SyntheticWorkload, make_requests, parse_lengths, parse_rate
from lora_cli.cli import options
from lora_cli.cli.options import option, result
from lora_cli.cli.output import ReportFormat, write
from lora_cli.errors import UsageError
from lora_cli.text import safe

SHARED = frozenset({"base", "policy"})
"""Options of other commands too: where they have no effect, their variables are not refused."""

mode = partial(option, default=None, panel="What to measure")
workload = partial(option, default=None, panel="Workload")
tier = partial(option, default=None, panel="Tiers")
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
    num_prompts: int | None = workload(
        "--num-prompts", "Number of requests.", min=1, max=10_000_000, show_default="200; 20000 with --simulate"
    )
    popularity: str = workload(
        "--popularity MODEL",
        "How often each adapter is requested: zipf:S, uniform, or a file: weights.json.",
        default="zipf:1.0",
    )
    request_rate: str = workload(
        "--request-rate PER_SECOND",
        "Requests per second; inf sends all at once, with --simulate one after the other.",
        default="inf",
    )
    burstiness: str = workload(
        "--burstiness X", "Shape of the Gamma gaps, as in vLLM: 1 is Poisson, less is burstier.", default="1"
    )
    input_len: str = workload("--input-len N|LOW-HIGH", "Prompt tokens.", default="128")
    output_len: str = workload("--output-len N|LOW-HIGH", "Output tokens.", default="16")
    seed: int = workload("--seed", "Random seed; it draws the same workload on every machine.", default=0, min=0)
    trace: Path | None = workload("--trace FILE", "Replay these requests: JSON lines.")
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
    save_trace: Path | None = result("--save-trace FILE", "Write the requests as JSON lines.")
    fail_if: list[str] | None = result(
        "--fail-if CONDITION",
        'Exit with 1 if true or not measured, such as "lru.hit_ratio<0.5"; may be repeated.',
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
    """The parsed workload: a ``replayed`` trace, or ``traffic`` to generate one from when the adapters are known."""

    options: BenchOptions
    traffic: SyntheticWorkload
    replayed: Trace | None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in the trace or the file of weights; empty without these."""
        if self.replayed is not None:
            return self.replayed.names
        return getattr(self.traffic.popularity, "names", ())

    @property
    def request_rate(self) -> float | None:
        """The request rate; None for a trace, which has times."""
        return self.traffic.request_rate if self.replayed is None else None

    def summary(self) -> dict[str, str]:
        """The workload's parameters, for the report."""
        options = self.options
        if self.replayed is not None:
            return {"trace": safe(options.trace)}
        found = {"popularity": safe(options.popularity)}
        if options.request_rate != "inf":
            found |= {"request_rate": options.request_rate, "burstiness": options.burstiness}
        return found | {"input_len": options.input_len, "output_len": options.output_len}

    def trace_for(self, names: Sequence[str], usual: int) -> Trace:
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
        traffic = replace(
            self.traffic,
            requests=self.options.num_prompts or usual,
            seed=self.options.seed,
            input_len=parse_lengths(self.options.input_len, "--input-len"),
            output_len=parse_lengths(self.options.output_len, "--output-len"),
        )
        return make_requests(names, traffic)


def parse_workload(options: BenchOptions) -> Workload:
    """The workload of the options.

    Raises:
        LoraCliError: a value is invalid, or a file cannot be read.
    """
    popularity = read_popularity(options.popularity)
    rate = parse_rate(options.request_rate, "--request-rate")
    burstiness = parse_rate(options.burstiness, "--burstiness")
    unused: dict[str, object] = {
        "--burstiness": burstiness != 1,
        "--input-len": options.input_len != "128",
        "--output-len": options.output_len != "16",
        "--num-prompts": options.num_prompts,
        "--request-rate": options.request_rate != "inf",
    }
    for flag in (flag for flag, given in unused.items() if given and options.trace is not None):
        raise UsageError(f"{flag} and --trace cannot be used together", hint="a trace has its own times and tokens")
    replayed = read_trace(options.trace) if options.trace is not None else None
    return Workload(options, SyntheticWorkload(popularity, 0, request_rate=rate, burstiness=burstiness), replayed)


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
