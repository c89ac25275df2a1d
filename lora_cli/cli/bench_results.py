"""What becomes of a result: it is printed, saved, compared and judged."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.cli.bench_options import ResultFlags
from lora_cli.cli.output import (
    DEFAULT_WIDTH,
    ReportFormat,
    colour,
    drawable,
    to_stderr,
    width,
    writable,
    write,
    written,
)
from lora_cli.errors import MachineError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lora_cli.bench.conditions import Condition
    from lora_cli.bench.regression import Change, Judged
    from lora_cli.bench.trace import Trace
    from lora_cli.render.bench_report import BenchReport


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for, read and checked before the run."""

    flags: ResultFlags
    conditions: "tuple[Condition, ...]" = ()
    before: Mapping[str, float] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """A result, and the ways to tell it.

    A page in HTML has a place for what it was compared with and judged by; in a terminal that follows. ``human`` takes
    the width, and whether to draw in ASCII alone.
    """

    report: "BenchReport"
    human: "Callable[[int, bool], Iterable[RenderableType]]"
    html: "Callable[[tuple[Change, ...], tuple[Judged, ...]], str]"
    name: str = "lora-cli"


def wanted_of(flags: ResultFlags, known: Collection[str], *, quiet: bool = False) -> Wanted:
    """Everything that can be wrong with what is asked for, found out before the work.

    Raises:
        LoraCliError: a condition is wrong, or a file cannot be read or written.
    """
    from lora_cli.bench.conditions import parse_condition
    from lora_cli.bench.regression import read_baseline

    for file in (flags.output, flags.save_trace):
        if file is not None:
            writable(file)
    conditions = tuple(parse_condition(text, "--fail-if", known) for text in flags.fail_if or ())
    before = read_baseline(flags.baseline) if flags.baseline is not None else None
    metadata = _metadata(flags.metadata or [])
    if flags.save_result:
        _make(flags.result_dir or Path())
    elif flags.result_dir is not None or flags.result_filename is not None:
        name = "--result-dir" if flags.result_dir is not None else "--result-filename"
        raise UsageError(f"{name} is for --save-result", hint="say --save-result too")
    return Wanted(flags, conditions, before, metadata, quiet)


def conclude(told: Told, trace: "Trace", wanted: Wanted, by_seed: "Mapping[int, Trace] | None" = None) -> int:
    """Write and save the result; 1 when a condition fails it, else 0. ``by_seed`` are the traces of several runs.

    Raises:
        MachineError: a file cannot be written.
    """
    from lora_cli.bench.regression import changes, judged

    flags = wanted.flags
    compared = changes(wanted.before, told.report.metrics) if wanted.before is not None else ()
    verdicts = judged(wanted.conditions, told.report.metrics)
    if flags.save_result:
        _save(told, by_seed or {0: trace}, wanted, compared, verdicts)
    if flags.output_format is ReportFormat.JSON:
        text = _encoded(told, wanted, compared, verdicts)
    elif flags.output_format is ReportFormat.HTML:
        text = told.html(compared, verdicts)
    else:
        text = _drawn(told, flags.output, compared, verdicts)
    write(text, flags.output)
    written(flags.output, quiet=wanted.quiet)
    failed = [one for one in verdicts if one.failed]
    for one in failed:
        to_stderr(f"failed: {one}")
    return 1 if failed else 0


def _drawn(told: Told, output: Path | None, compared: "tuple[Change, ...]", verdicts: "tuple[Judged, ...]") -> str:
    from lora_cli.render.terminal import rendered
    from lora_cli.render.terminal_bench import judgement_parts

    wide, coloured = (width(), colour()) if output is None else (DEFAULT_WIDTH, False)
    plain = output is None and not drawable()
    return rendered([*told.human(wide, plain), *judgement_parts(compared, verdicts, wide)], wide, colour=coloured)


def _encoded(
    told: Told,
    wanted: Wanted,
    compared: "tuple[Change, ...]",
    verdicts: "tuple[Judged, ...]",
) -> str:
    from lora_cli.render.json import encoded
    from lora_cli.render.json_bench import condition_results, metric_changes

    report = replace(
        told.report,
        baseline=metric_changes(compared) if wanted.before is not None else None,
        fail_if=condition_results(verdicts) if verdicts else None,
        metadata=wanted.metadata,
    )
    return encoded(report)


def _save(
    told: Told,
    traces: "Mapping[int, Trace]",
    wanted: Wanted,
    compared: "tuple[Change, ...]",
    verdicts: "tuple[Judged, ...]",
) -> None:
    """The result and beside it the trace, or that of each seed, named as vLLM names its results."""
    from lora_cli.cli.bench_workload import save_trace

    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    rate = told.report.run.request_rate
    file = (wanted.flags.result_dir or Path()) / (wanted.flags.result_filename or f"{told.name}-{rate}qps-{now}.json")
    files = {}
    for seed, trace in traces.items():
        beside = file.with_name(f"{file.stem}{f'.seed-{seed}' if len(traces) > 1 else ''}.trace.jsonl")
        save_trace(trace, beside)
        files[str(seed)] = beside.name
    first = next(iter(files.values()))
    kept = replace(
        told.report,
        run=replace(told.report.run, date=now),
        trace=first,
        traces=files if len(files) > 1 else None,
    )
    write(_encoded(replace(told, report=kept), wanted, compared, verdicts), file)
    to_stderr(f"saved {file} and {first}" + (", ..." if len(files) > 1 else ""))


def _metadata(words: list[str]) -> dict[str, str]:
    from lora_cli.render.bench_report import KEYS

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--metadata {word[:60]}: must be KEY=VALUE", hint="--metadata gpu=H100")
        if key.strip() in KEYS:
            raise UsageError(f"--metadata {key.strip()}: the result has that key already", hint="choose another key")
        found[key.strip()] = value.strip()
    return found


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"--result-dir {folder} cannot be made: {error.strerror}") from error
