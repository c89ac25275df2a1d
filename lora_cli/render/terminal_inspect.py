"""What ``inspect`` prints: a table of several adapters, what each one is, its findings, and the flags to serve them."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lora_cli.core.comparison import Comparison
from lora_cli.core.text import between, cut, safe, size, span
from lora_cli.render.engine_flags import costs, title
from lora_cli.render.inspect_facts import Rows, contents, identity, origin
from lora_cli.render.inspect_report import InspectedAdapter, InspectReport
from lora_cli.render.terminal import (
    SHORTEST_NAME,
    Paragraph,
    apart,
    facts,
    hints,
    in_json,
    table,
    table_or_blocks,
    text,
)
from lora_cli.render.terminal_validate import STYLES
from lora_cli.validation.engine_args import EngineArgs

WORDS = {"equal": "green", "scaled": "yellow", "related": "yellow", "unrelated": "cyan", "unknown": "red"}
MOST_ROWS = 20
HEADER = ("adapter", "base", "targets", "dtype", "rank", "scaling", "size")


def inspection_parts(report: InspectReport, width: int, *, plain: bool = False) -> Iterator[RenderableType]:
    """All adapters of the report, in a table of ``width`` that cuts long names; ``plain`` draws in ASCII."""
    several = len(report.adapters) > 1
    described = [_facts(one) for one in report.adapters]
    read = [rows for rows in described if rows]
    common = [row for row in read[0] if all(row in rows for rows in read)] if several and len(read) > 1 else []
    whose = f"all {len(read)} adapters{' that were read' if len(read) < len(described) else ''}"
    blocks: list[Iterable[RenderableType]] = [[_overview(report.adapters, width)]] if several else []
    blocks += [[Text(whose, "bold"), *facts(common)]] if common else []
    for one, rows in zip(report.adapters, described, strict=True):
        told = {*common, *zip(HEADER[1:], _cells(one), strict=True)} if several else set()
        own = facts(row for row in rows if row not in told)
        blocks += [[text(one.checked.name, "bold"), *own, *_problems(one)], *_values(one, plain=plain)]
    return apart(*blocks)


def _overview(adapters: Sequence[InspectedAdapter], width: int) -> Table:
    """One row for each adapter, to compare them; without the base where it is the same for all."""
    rows = [
        HEADER,
        *((cut(safe(one.checked.name), max(SHORTEST_NAME, width // 4 - 3)), *_cells(one)) for one in adapters),
    ]
    bases = {one.inspection.base for one in adapters if one.inspection is not None}
    header, *cells = [(row[0], *row[2:]) for row in rows] if len(bases) < 2 else rows
    compared = table(header, cells, left=len(header) - 3)
    compared.columns[0].no_wrap = True
    return compared


def _cells(one: InspectedAdapter) -> tuple[str, ...]:
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


def _facts(one: InspectedAdapter) -> Rows:
    """What is known of an adapter, as labelled values; empty where it could not be read."""
    checked, found = one.checked, one.inspection
    if found is None:
        return []
    return [row for row in (*identity(checked, found), *contents(checked, found), *origin(found)) if row[1]]


def _problems(one: InspectedAdapter) -> Iterable[RenderableType]:
    """Why it could not be read, and the findings, the worst first."""
    if (error := one.checked.error) is not None:
        yield from (Paragraph(error.message, indent=2), *hints(error.hint))
    for finding in sorted(one.checked.findings, key=lambda found: -found.severity):
        label = Text.assemble((str(finding.severity), STYLES[finding.severity]), f" {finding.code}: ")
        yield Paragraph(finding.problem.message, label, indent=2)


def _values(one: InspectedAdapter, *, plain: bool) -> Iterator[Iterable[RenderableType]]:
    """The spectrum and the comparison of an adapter, as far as there are any."""
    if one.spectrum is not None:
        from lora_cli.render.terminal_spectrum import spectrum_parts

        yield spectrum_parts(one.spectrum, plain=plain)
    if one.diff is not None:
        yield comparison_parts(one.checked.name, one.diff)


def comparison_parts(name: str, one: Comparison) -> Iterator[RenderableType]:
    """One word, how far all updates are apart, and tables of what differs; ``name`` is A, B is the other."""
    from lora_cli.render.comparison_facts import facts_of, tables_of

    yield Text("diff", "bold")
    yield Paragraph(one.reason, Text.assemble((one.word, WORDS[one.word]), ": "), indent=2)
    yield from (*hints(one.hint), "", *facts(facts_of(name, one)))
    for part in tables_of(one):
        rows = [[Text(cell, WORDS.get(cell, "")) for cell in row] for row in part.rows[:MOST_ROWS]]
        yield from ("", Text(part.caption, "bold"), table_or_blocks(part.header, rows, left=part.text))
        yield from in_json(len(part.rows) - MOST_ROWS)


def engine_args_parts(
    report: InspectReport, args: EngineArgs, *, plain: bool = False, command: bool = True
) -> Iterator[RenderableType]:
    """What the command is for, the command, and what it costs, with the values of the adapters where they were read.

    The command has an option on each line, as a shell takes it; there is none where no adapter is served.
    """
    below = facts(costs(args))
    for one in report.adapters:
        if values := list(apart(*_values(one, plain=plain))):
            below += ["", text(one.checked.name), *values]
    lines = [Text(f"  {line}", no_wrap=True, overflow="ignore") for line in args.lines if command]
    return apart([Text(safe(title(args, report.base)), "bold", overflow="fold")], lines, below)
