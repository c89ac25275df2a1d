"""The workload that the command line of ``serve-bench`` asks for, made or read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_cli.bench.lengths import parse_lengths
from lora_cli.bench.popularity import Popularity
from lora_cli.bench.popularity_file import Counted, read_popularity
from lora_cli.bench.ramp import Ramp, ramp_of
from lora_cli.bench.trace import Trace
from lora_cli.bench.trace_file import read_trace, trace_lines
from lora_cli.bench.traffic import Shape, Traffic, make_requests, parse_rate, shape_of
from lora_cli.cli.bench_options import BenchOptions
from lora_cli.cli.output import write
from lora_cli.core.text import safe
from lora_cli.errors import UsageError

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
