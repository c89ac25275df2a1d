"""Text, tables and paragraphs for the terminal, with rich, which is imported where something is drawn.

Untrusted text is escaped, and is never markup.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal

from lora_cli.text import safe

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

    Parts = Iterator[RenderableType]

MIN_WIDTH = 24
"""The least width to which text is wrapped."""

MIN_CELL = 10
"""The least width to which a long word in a column is folded, but in the first one."""

EMPTY = ("", "-")
"""Cells without a value."""


def text(*parts: object) -> "Text":
    """The parts on one line: each a value (None is ``-``), a value with a rich style (``("ok", "green")``), or Text."""
    from rich.text import Text

    made = Text()
    for part in parts:
        if isinstance(part, Text):
            made.append_text(part)
        else:
            value, style = part if isinstance(part, tuple) else (part, "")
            made.append("-" if value is None else safe(value), style)
    return made


class Paragraph:
    """Text after a ``label``, wrapped at blanks with a hanging indent.

    Long words (paths, names of tensors) are not broken, so that they can be copied.
    """

    def __init__(self, value: object, label: "Text | str" = "", *, indent: int = 0, hanging: int | None = None) -> None:
        self._text, self._indent, self._label = text(label, value), indent, len(str(label).rstrip())
        self._hanging = hanging if hanging is not None else indent + 2 * bool(label)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Renders the lines."""
        from rich.cells import cell_len

        width, taken, breaks = max(options.max_width, MIN_WIDTH), self._indent, list[int]()
        for word in re.finditer(r"\s*\S+", self._text.plain):
            taken += cell_len(word[0])
            if taken > width and word.start() > self._label:
                begin = word.end() - len(word[0].lstrip())
                breaks.append(begin)
                taken = self._hanging + cell_len(self._text.plain[begin : word.end()])
        for number, line in enumerate(self._text.divide(breaks)):
            line.rstrip()
            shown = text(" " * (self._hanging if number else self._indent), line)
            shown.no_wrap, shown.overflow = True, "ignore"
            yield shown


def hints(words: str, indent: int = 2) -> "list[RenderableType]":
    """The hint, if there is one."""
    return [Paragraph(words, text(("hint: ", "dim")), indent=indent)] if words else []


def failure(name: object, word: str, message: str, hint: str) -> "Parts":
    """A failed adapter: its name and a word in red, then the message and the hint."""
    yield text(name, ": ", (word, "red"))
    yield from (Paragraph(line, indent=2) for line in message.splitlines())
    yield from hints(hint)


def facts(rows: Iterable[tuple[str, object]], indent: int = 2) -> "list[RenderableType]":
    """Labelled values, aligned, one per line; empty values are left out."""
    known = [(label, value) for label, value in rows if value not in ("", None)]
    column = max((len(label) for label, _ in known), default=0) + 2
    return [Paragraph(value, f"{label:<{column}}", indent=indent, hanging=indent + column) for label, value in known]


def table(header: Sequence[object], rows: Iterable[Sequence[object]], *, left: int = 1) -> "Table":
    """A table without lines; columns in which no row says anything are left out.

    The first ``left`` columns are left-aligned. If it is too wide, cells are wrapped at blanks, and long words folded.
    """
    from rich.table import Table
    from rich.text import Text

    result, shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold"), list[list[Text]]()
    for number, (name, *cells) in enumerate(
        zip(*([text(cell) for cell in row] for row in (header, *rows)), strict=True)
    ):
        if not number or any(cell.plain not in EMPTY for cell in cells):
            words = [word for cell in (name, *(cells if number else ())) for word in cell.plain.split()]
            longest = min(max(map(len, words), default=0), MIN_CELL)
            side: Literal["left", "right"] = "left" if number < left else "right"
            result.add_column(name, justify=side, overflow="fold", min_width=longest)
            shown.append(cells)
    for row in zip(*shown, strict=True):
        result.add_row(*row)
    return result


def separated(*blocks: "Iterable[RenderableType]") -> "Parts":
    """The parts of all nonempty blocks, with a blank line between two blocks."""
    for number, block in enumerate(filter(None, map(list, blocks))):
        yield from [""] * bool(number)
        yield from block


def rendered(parts: "Iterable[RenderableType]", width: int, *, colour: bool = False) -> str:
    """The text of all ``parts`` in ``width`` columns (longer words are not broken), optionally in colour."""
    from rich.console import Console

    page = StringIO()
    console = Console(
        file=page,
        width=max(width, MIN_WIDTH),
        force_terminal=colour,
        color_system="standard" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(part, crop=False, overflow="ignore", no_wrap=None)
    return "".join(line.rstrip() + "\n" for line in page.getvalue().splitlines())
