"""The result of serve-bench: printed, and checked against conditions."""

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lora_cli.bench.report import BenchReport
from lora_cli.bench.thresholds import Condition, evaluate_conditions, parse_condition
from lora_cli.cli.bench_options import BenchOptions
from lora_cli.cli.output import check_writable, to_stderr, write_report
from lora_cli.errors import LoraCliError
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

Failures = dict[str, LoraCliError]
"""Adapters that cannot be served, and why."""


def report_writer(options: BenchOptions, known: Collection[str]) -> Callable[[BenchReport], int]:
    """The function that writes the report and returns the exit code. All its options are checked before the run.

    Raises:
        LoraCliError: a condition is invalid, or a file cannot be written.
    """
    for file in (options.output, options.save_trace):
        check_writable(file)
    conditions = tuple(parse_condition(text, "--fail-if", known) for text in options.fail_if or ())
    return partial(_conclude, options, conditions)


def _conclude(options: BenchOptions, conditions: Sequence[Condition], report: BenchReport) -> int:
    """Writes the report; returns 1 if a condition fails, else 0.

    Raises:
        MachineError: a file cannot be written.
    """
    report = replace(report, fail_if=evaluate_conditions(conditions, report.metrics) or None)

    def parts(_plain: bool) -> "Iterable[RenderableType]":
        from lora_cli.render.terminal_bench import report_parts

        return report_parts(report)

    def page() -> str:
        from lora_cli.render.html import render_bench

        return render_bench(report)

    write_report(report, options.output_format, parts, page, options.output, options.ctx.obj)
    failed = [one for one in report.fail_if or () if one.failed]
    for one in failed:
        to_stderr(f"failed: {one}")
    return 1 if failed else 0


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
