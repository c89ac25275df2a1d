"""Plain text: safe to print, wrapped, and coloured by hand, because importing rich costs more than a whole check."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lora_cli.core.text import counted, safe

if TYPE_CHECKING:
    from lora_cli.validation.report import Counts

NARROWEST = 24
CODES = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}


def paint(text: str, style: str, *, colour: bool) -> str:
    """``text`` in a style of ``CODES`` where colour is wanted."""
    return f"\x1b[{CODES[style]}m{text}\x1b[0m" if colour and text else text


def wrap(text: object, width: int, indent: str = "", first: str | None = None) -> list[str]:
    """Lines of at most ``width`` columns. A longer word (a path, a tensor's name) stays whole, to be copied."""
    width = max(width, NARROWEST)
    lines: list[str] = []
    line, gap, empty = indent if first is None else first, "", True
    for word in safe(text).split(" "):
        if not word:
            gap += " "
            continue
        fits = len(line) + len(gap) + len(word) <= width
        if not fits and not empty:
            lines.append(line)
            line = indent
        line += gap + word if fits else word
        gap, empty = " ", False
    return lines if empty else [*lines, line]


def pairs(rows: Iterable[tuple[str, object]], width: int, indent: str = "  ") -> list[str]:
    """Labelled values, one below the other, aligned; empty values are left out."""
    kept = [(label, value) for label, value in rows if value not in ("", None)]
    column = max((len(label) for label, _ in kept), default=0) + 2
    lines: list[str] = []
    for label, value in kept:
        hanging = indent + " " * column
        lines += wrap(value, width, hanging, f"{indent}{label:<{column}}")
    return lines


def columns(header: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1, gap: int = 2) -> list[str]:
    """A table as lines: the first ``left`` columns to the left, numbers to the right, nothing cut."""
    cells = [list(header), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    aligned = (
        (cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(row)) for row in cells
    )
    return [(" " * gap).join(row).rstrip() for row in aligned]


def unmarked(documentation: str) -> str:
    """A rule's documentation, as it reads without markup."""
    return documentation.replace("``", "").replace("*Why is this bad?*", "Why is this bad?").replace("*Fix*", "Fix")


def summary(counts: "Counts") -> str:
    """``3 adapters (1 ok, 2 refused); 2 errors; no warnings; no skipped checks``, and what does not count, if any."""
    parts = [
        f"{counts.ok} ok",
        f"{counts.accepted} accepted",
        f"{counts.refused} refused",
        f"{counts.failed} failed",
    ]
    outcome = ", ".join(part for part in parts if not part.startswith("0 "))
    said = [
        f"{counted(counts.adapters, 'adapter')} ({outcome})" if outcome else counted(0, "adapter"),
        *(
            f"{engine}: {', '.join(f'{label} {number}' for label, number in outcomes.items())}"
            for engine, outcomes in counts.engines.items()
        ),
        counted(counts.errors, "error"),
        counted(counts.warnings, "warning"),
        counted(counts.skipped, "skipped check"),
    ]
    said += [f"{counts.known} known"] * bool(counts.known)
    said += [f"{counts.suppressed} suppressed"] * bool(counts.suppressed)
    return "; ".join(said)
