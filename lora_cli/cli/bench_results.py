"""The result of serve-bench: printed, saved, compared with a baseline, and checked against conditions."""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.bench.baseline import Baseline, compare_metrics, read_baseline, workload_differences
from lora_cli.bench.report import KEYS, BenchReport
from lora_cli.bench.thresholds import Condition, evaluate_conditions, parse_condition
from lora_cli.bench.trace import Trace
from lora_cli.cli.bench_options import BenchOptions, save_trace
from lora_cli.cli.output import check_writable, inform, to_stderr, width, write, write_report
from lora_cli.errors import LoraCliError, MachineError, UsageError
from lora_cli.render.json import to_json
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

Failures = dict[str, LoraCliError]
"""Adapters that cannot be served, and why."""


def report_writer(options: BenchOptions, known: Collection[str]) -> Callable[[BenchReport, Mapping[int, Trace]], int]:
    """The function that writes the report and returns the exit code. All its options are checked before the run.

    Raises:
        LoraCliError: a condition is invalid, or a file cannot be read or written.
    """
    for file in (options.output, options.save_trace):
        check_writable(file)
    conditions = tuple(parse_condition(text, "--fail-if", known) for text in options.fail_if or ())
    before = read_baseline(options.baseline) if options.baseline is not None else None
    metadata = _metadata(options.metadata or [])
    if options.save_result:
        folder = options.result_dir or Path()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"--result-dir {folder} cannot be created: {error.strerror}") from error
    else:
        options.refuse(("result_dir", "result_filename"), "for --save-result", "add --save-result")
    return partial(_conclude, options, conditions, before, metadata)


def _conclude(
    options: BenchOptions,
    conditions: Sequence[Condition],
    before: Baseline | None,
    metadata: Mapping[str, str],
    report: BenchReport,
    traces: Mapping[int, Trace],
) -> int:
    """Writes and saves the report; returns 1 if a condition fails, else 0. ``traces`` are the requests by seed.

    Raises:
        MachineError: a file cannot be written.
    """
    differing = workload_differences(before.document, report) if before is not None else ()
    if before is not None and differing:
        inform(f"warning: {before.file} has another workload: {'; '.join(map(str, differing))}", options.ctx.obj)
    report = replace(
        report,
        baseline=compare_metrics(before.metrics, report.metrics) if before is not None else None,
        baseline_differs=differing or None,
        fail_if=evaluate_conditions(conditions, report.metrics) or None,
        metadata=metadata,
    )
    if options.save_result:
        _save(report, traces, options)

    def parts(_plain: bool) -> "Iterable[RenderableType]":
        from lora_cli.render.terminal_bench import report_parts

        return report_parts(report, width(options.output))

    def page() -> str:
        from lora_cli.render.html import render_bench

        return render_bench(report)

    write_report(report, options.output_format, parts, page, options.output, options.ctx.obj)
    failed = [one for one in report.fail_if or () if one.failed]
    for one in failed:
        to_stderr(f"failed: {one}")
    return 1 if failed else 0


def _save(report: BenchReport, traces: Mapping[int, Trace], options: BenchOptions) -> None:
    """Saves the report, and next to it the trace of each seed, named as vLLM names its results."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = options.result_filename or f"lora-cli-{report.run.request_rate}qps-{now}.json"
    file = (options.result_dir or Path()) / name
    files = {}
    for seed, trace in traces.items():
        beside = file.with_name(f"{file.stem}{f'.seed-{seed}' if len(traces) > 1 else ''}.trace.jsonl")
        save_trace(trace, beside)
        files[str(seed)] = beside.name
    first = next(iter(files.values()))
    run = replace(report.run, date=now)
    write(to_json(replace(report, run=run, trace=first, traces=files if len(files) > 1 else None)), file)
    to_stderr(f"saved {file} and {first}" + (", ..." if len(files) > 1 else ""))


def _metadata(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--metadata {word[:60]}: must be KEY=VALUE", hint="--metadata gpu=H100")
        if key.strip() in KEYS:
            raise UsageError(f"--metadata {key.strip()}: the result already has that key", hint="use another key")
        found[key.strip()] = value.strip()
    return found


def request_counter(total: int, settings: Settings) -> Callable[[int], None]:
    """Shows the number of finished requests on a terminal; does nothing elsewhere."""
    if settings.quiet or settings.no_progress or not sys.stderr.isatty():
        return lambda _done: None
    step = max(1, total // 100)

    def tell(done: int) -> None:
        if done % step == 0 or done == total:
            sys.stderr.write(f"\r{done} of {total} requests" + ("\n" if done == total else ""))
            sys.stderr.flush()

    return tell
