"""Text, tables and paragraphs for the terminal, with rich. Untrusted text is escaped, and is never markup."""

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from lora_cli.text import cut, safe

MIN_WIDTH = 24
"""The least width to which text is wrapped."""

MIN_NAME_WIDTH = 12
"""The least characters of a shortened name."""

EMPTY_CELLS = frozenset({"", "-"})
"""Cells without a value."""


def text(value: object, style: str = "") -> Text:
    """``value`` on one line in a rich style (``"red"``); a ``Text`` is returned unchanged, and None is ``-``."""
    return value if isinstance(value, Text) else Text("-" if value is None else safe(value), style)


class Paragraph:
    """Text after a ``label``, wrapped at blanks with a hanging indent.

    Long words (paths, names of tensors) are not broken, so that they can be copied.
    """

    def __init__(self, value: object, label: Text | str = "", *, indent: int = 0, hanging: int | None = None) -> None:
        self._value, self._label, self._indent = safe(value), text(label), " " * indent
        self._hanging = " " * (hanging if hanging is not None else indent + 2 * bool(self._label))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the lines, with the label in its style."""
        first, value, width = Text.assemble(self._indent, self._label), self._value, max(options.max_width, MIN_WIDTH)
        if is_long := len(first) > width:  # a long name in the label is wrapped, too
            first, value = Text(self._indent), self._label.plain + value
        lines = textwrap.wrap(
            value,
            width,
            initial_indent=first.plain,
            subsequent_indent=self._hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )
        whole = Text.assemble(first, "\n".join(lines)[len(first) :], no_wrap=True, overflow="ignore")
        for start, stop, style in self._label.spans if is_long else ():
            whole.highlight_words([self._label.plain[start:stop]], style)
        yield whole


def hints(words: str, indent: int = 2, style: str = "") -> list[RenderableType]:
    """The hint, if there is one."""
    return [Paragraph(words, text("hint: ", style), indent=indent)] if words else []


def facts(rows: Iterable[tuple[str, object]], indent: int = 2) -> list[RenderableType]:
    """Labelled values, aligned, one per line; empty values are left out."""
    known = [(label, value) for label, value in rows if value not in ("", None)]
    column = max((len(label) for label, _ in known), default=0) + 2
    return [Paragraph(value, f"{label:<{column}}", indent=indent, hanging=indent + column) for label, value in known]


def table(header: Sequence[str | Text], rows: Iterable[Sequence[object]], *, left: int = 1) -> Table:
    """A table without lines: the first ``left`` columns are left-aligned and may fold; the others are right-aligned."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        is_text = number < left
        justify: JustifyMethod = "left" if is_text else "right"
        longest = max(map(len, str(name).split("\n")))
        result.add_column(text(name), justify=justify, no_wrap=not is_text, overflow="fold", min_width=longest)
    for row in rows:
        result.add_row(*map(text, row))
    return result


class FittedTable:
    """A ``table`` if it fits into the width; otherwise ``instead``.

    With ``names`` the names in the first column are shortened first, if they stay unique.
    """

    def __init__(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[object]],
        instead: Iterable[RenderableType],
        *,
        left: int = 1,
        names: bool = False,
    ) -> None:
        self._header, self._instead, self._left, self._names = header, instead, left, names
        self._rows = [[text(cell) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the table or ``instead``."""
        shown = [row[0].plain for row in self._rows]
        short = [cut(name, max(MIN_NAME_WIDTH, options.max_width // 4 - 3)) for name in shown]
        for names in (shown, short) if self._names and len({*short}) == len({*shown}) else (shown,):
            rows = [[Text(name, row[0].style), *row[1:]] for name, row in zip(names, self._rows, strict=True)]
            whole = table(self._header, rows, left=self._left)
            if console.measure(whole, options=options.update(max_width=sys.maxsize)).maximum <= options.max_width:
                yield whole
                return
        yield from self._instead


def table_or_blocks(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1, title: str = "", names: bool = False
) -> FittedTable:
    """A ``FittedTable``; if it is too wide, a block for each row: the first cell, and below it the other values.

    ``title`` is above the blocks. Columns without values are left out.
    """
    cells = [[text(cell) for cell in row] for row in rows]
    informative = [any(row[number].plain not in EMPTY_CELLS for row in cells) for number in range(1, len(header))]
    columns = [0, *(number for number, says in enumerate(informative, 1) if says or not cells)]
    blocks: list[RenderableType] = [text(title, "bold")] if title else []
    for first, *others in cells:
        named = zip(header[1:], (cell.plain for cell in others), strict=True)
        rest = ", ".join(f"{name} {cell}".lstrip() for name, cell in named if cell not in EMPTY_CELLS)
        blocks += [Paragraph(first.plain), Paragraph(rest, indent=2)]
    whole = [[row[number] for number in columns] for row in cells]
    left = sum(number < left for number in columns)
    return FittedTable([header[number] for number in columns], whole, blocks, left=left, names=names)


def separated(*blocks: Iterable[RenderableType]) -> Iterator[RenderableType]:
    """The parts of all nonempty blocks, with a blank line between two blocks."""
    filled = [block for block in map(list, blocks) if block]
    for number, block in enumerate(filled):
        yield from [""] * bool(number)
        yield from block


def rendered(parts: Iterable[RenderableType], width: int, *, colour: bool = False) -> str:
    """The text of all ``parts`` in ``width`` columns (longer words are not broken), optionally in colour."""
    page = StringIO()
    console = Console(
        file=page,
        width=max(width, MIN_WIDTH),
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for part in parts:
        console.print(part, crop=False, overflow="ignore", no_wrap=None)
    return "".join(line.rstrip() + "\n" for line in page.getvalue().splitlines())
