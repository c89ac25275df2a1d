"""The terminal output of ``inspect``: overview, facts and findings of each adapter, differences, engine flags."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lora_cli.judging.engine_args import EngineArgs
from lora_cli.render import inspect_facts
from lora_cli.render.inspect_facts import Rows
from lora_cli.render.inspect_report import Inspected, InspectReport
from lora_cli.render.terminal import (
    MIN_NAME_WIDTH,
    Paragraph,
    facts,
    hints,
    separated,
    table,
    table_or_blocks,
    text,
)
from lora_cli.text import between, cut, safe, size, span

MAX_ROWS = 20
HEADER = ("adapter", "base", "targets", "dtype", "rank", "scaling", "size")


def inspection_parts(report: InspectReport, width: int) -> Iterator[RenderableType]:
    """All adapters of the report, in ``width`` columns."""
    several = len(report.adapters) > 1
    described = [_facts(one) for one in report.adapters]
    read = [rows for rows in described if rows]
    common = [row for row in read[0] if all(row in rows for rows in read)] if several and len(read) > 1 else []
    whose = f"all {len(read)} adapters{' that were read' if len(read) < len(described) else ''}"
    blocks: list[Iterable[RenderableType]] = [[_overview(report.adapters, width)]] if several else []
    blocks += [[Text(whose, "bold"), *facts(common)]] if common else []
    for one, rows in zip(report.adapters, described, strict=True):
        shown_above = {*common, *zip(HEADER[1:], _cells(one), strict=True)} if several else set()
        own = facts(row for row in rows if row not in shown_above)
        error = one.result.error
        why = () if error is None else (Paragraph(error.message, indent=2), *hints(error.hint))
        blocks += [[text(one.result.name, "bold"), *own, *why], _diff_parts(one)]
    return separated(*blocks)


def _overview(adapters: Sequence[Inspected], width: int) -> Table:
    """A row for each adapter; without the base if it is the same for all."""
    rows = [
        HEADER,
        *((cut(safe(one.result.name), max(MIN_NAME_WIDTH, width // 4 - 3)), *_cells(one)) for one in adapters),
    ]
    bases = {one.inspection.base for one in adapters if one.inspection is not None}
    header, *cells = [(row[0], *row[2:]) for row in rows] if len(bases) < 2 else rows
    compared = table(header, cells, left=len(header) - 3)
    compared.columns[0].no_wrap = True
    return compared


def _cells(one: Inspected) -> tuple[str, ...]:
    """The cells below ``HEADER`` after the name."""
    found = one.inspection
    if found is None:
        return ("-", "not read", *["-"] * 4)
    return (
        found.base.rpartition("/")[2] or "-",
        ", ".join(sorted(found.targets)) or "-",
        ", ".join(found.dtypes) or "-",
        span(list(found.ranks)) if found.ranks else "-",
        between(found.scalings, "{:.6g}".format),
        size(found.total_bytes),
    )


def _facts(one: Inspected) -> Rows:
    """The facts of an adapter; empty if it could not be read."""
    result, found = one.result, one.inspection
    if found is None:
        return []
    rows = inspect_facts.identity(result, found) + inspect_facts.contents(result, found) + inspect_facts.origin(found)
    rows.append(("signed by", safe(", ".join(one.result.signers or ()))))
    return [row for row in rows if row[1]]


def _diff_parts(one: Inspected) -> Iterator[RenderableType]:
    """The tables of differences from another adapter, if that was asked for; the adapter is A, the other one is B."""
    if one.diff is None:
        return
    yield from (Text("diff", "bold"), *facts(inspect_facts.comparison_facts(one.result.name, one.diff)))
    for caption, header, rows in inspect_facts.comparison_tables(one.diff):
        yield from ("", Text(caption, "bold"), table_or_blocks(header, rows[:MAX_ROWS], left=3))
        if len(rows) > MAX_ROWS:
            yield Paragraph(f"and {len(rows) - MAX_ROWS} more, in --format json")


def engine_args_parts(report: InspectReport, args: EngineArgs, *, command: bool = True) -> Iterator[RenderableType]:
    """A title, the command that starts the engine, its costs, and the differences from another adapter, if any.

    The command has an option per line; there is no command if no adapter is served.
    """
    from lora_cli.render.engine_flags import costs, title

    below = facts(costs(args))
    for one in report.adapters:
        if differences := list(_diff_parts(one)):
            below += ["", text(one.result.name), *differences]
    lines = [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in args.command.splitlines() if command]
    return separated([Text(safe(title(args, report.base)), "bold", overflow="fold")], lines, below)
