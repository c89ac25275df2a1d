"""The workload that the command line of ``serve-bench`` asks for, made or read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.cli.bench_options import WorkloadFlags
from lora_cli.core.text import safe
from lora_cli.errors import UsageError

if TYPE_CHECKING:
    from lora_cli.bench.popularity import Popularity
    from lora_cli.bench.popularity_file import Counted
    from lora_cli.bench.ramp import Ramp
    from lora_cli.bench.trace import Trace
    from lora_cli.bench.traffic import Shape


@dataclass(frozen=True, slots=True)
class Workload:
    """What was said of it, read: a trace is replayed, or made when the adapters are known."""

    flags: WorkloadFlags
    popularity: "Popularity | Counted"
    shape: "Shape"
    request_rate: float
    burstiness: float
    replayed: "Trace | None"
    ramp: "Ramp | None" = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that a trace or a file of weights names; none where neither does."""
        if self.replayed is not None:
            return self.replayed.names
        return getattr(self.popularity, "names", ())

    def words(self) -> dict[str, str]:
        """What a reader of the result needs to know of it."""
        flags = self.flags
        if flags.trace is not None:
            return {"trace": safe(flags.trace)}
        said = {"popularity": safe(flags.popularity)}
        said |= {self.shape.kind: ",".join(map(str, self.shape.numbers))} if self.shape.numbers else {}
        if flags.request_rate != "inf":
            said |= {"request_rate": flags.request_rate, "burstiness": flags.burstiness}
        if self.ramp is not None:
            said |= {"ramp_up": str(self.ramp), "burstiness": flags.burstiness}
        return said | {"input_len": flags.input_len, "output_len": flags.output_len}

    def over(self, names: Sequence[str], usual: int) -> "Trace":
        """The trace over these adapters, of ``usual`` requests where nobody says how many.

        Raises:
            UsageError: the trace or the weights are of others.
        """
        from lora_cli.bench.lengths import parse_lengths
        from lora_cli.bench.popularity_file import Counted
        from lora_cli.bench.traffic import Traffic, make_requests

        if self.replayed is not None:
            _only(self.replayed.names, names, f"{self.flags.trace}")
            return self.replayed
        popularity = self.popularity
        traffic = Traffic(
            popularity.over(names) if isinstance(popularity, Counted) else popularity,
            self.flags.num_prompts or usual,
            self.flags.seed,
            self.shape,
            self.request_rate,
            self.burstiness,
            parse_lengths(self.flags.input_len, "--input-len"),
            parse_lengths(self.flags.output_len, "--output-len"),
            self.ramp,
        )
        return make_requests(names, traffic)


def workload_of(flags: WorkloadFlags) -> Workload:
    """The workload that is asked for.

    Raises:
        LoraCliError: a word is wrong, or a file cannot be read.
    """
    from lora_cli.bench.popularity_file import read_popularity
    from lora_cli.bench.ramp import ramp_of
    from lora_cli.bench.trace_file import read_trace
    from lora_cli.bench.traffic import parse_rate, shape_of

    shape = shape_of(flags.drift, flags.scan, flags.sessions)
    popularity = read_popularity(flags.popularity)
    rate, burstiness = parse_rate(flags.request_rate, "--request-rate"), parse_rate(flags.burstiness, "--burstiness")
    ramp = ramp_of(flags.ramp_up_strategy, flags.ramp_up_start_rps, flags.ramp_up_end_rps)
    if ramp is not None and flags.request_rate != "inf":
        raise UsageError("--request-rate and --ramp-up-strategy exclude each other", hint="a ramp has its own rates")
    if flags.trace is None:
        return Workload(flags, popularity, shape, rate, burstiness, None, ramp)
    made: dict[str, object] = {"--num-prompts": flags.num_prompts, f"--{shape.kind}": shape.numbers}
    made |= {"--request-rate": flags.request_rate != "inf", "--ramp-up-strategy": ramp}
    for flag in (flag for flag, said in made.items() if said):
        raise UsageError(f"{flag} and --trace exclude each other", hint="a trace says who is asked for, and when")
    return Workload(flags, popularity, shape, rate, burstiness, read_trace(flags.trace))


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


def save_trace(trace: "Trace", file: Path) -> None:
    """Write every request as a line.

    Raises:
        MachineError: it cannot be written.
    """
    from lora_cli.bench.trace_file import trace_lines
    from lora_cli.cli.output import write

    write("".join(trace_lines(trace)), file)


def _only(asked: Iterable[str], names: Sequence[str], where: str) -> None:
    known = frozenset(names)
    for name in asked:
        if name not in known:
            raise UsageError(f"{where}: {safe(name)} is none of the {len(names)} adapters that are measured")
