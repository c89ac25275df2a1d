"""Where a command's text goes: how wide it may be, whether in colour, and to which file."""

import os
import sys
from enum import StrEnum
from pathlib import Path

import typer

from lora_cli.errors import MachineError

DEFAULT_WIDTH = 80
WIDEST = 120


class Format(StrEnum):
    """How a command writes its result."""

    HUMAN = "human"
    JSON = "json"


def width() -> int:
    """Columns to write in: ``COLUMNS``, the terminal's, or 80 in a pipe; lines longer than 120 are hard to read."""
    set_by_hand = os.environ.get("COLUMNS", "")
    if set_by_hand.isdecimal() and int(set_by_hand) > 0:
        return int(set_by_hand)
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns or DEFAULT_WIDTH, WIDEST)
    except (OSError, ValueError):
        return DEFAULT_WIDTH


def colour() -> bool:
    """Whether to colour: on a terminal that can, unless ``NO_COLOR`` (https://no-color.org) says no."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write(text: str, file: Path | None = None) -> None:
    """``text``, which ends its own lines, to standard output or to ``file`` (``-`` is standard output).

    Raises:
        MachineError: the file cannot be written.
    """
    if file is None or str(file) == "-":
        encoding = sys.stdout.encoding or "utf-8"
        typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MachineError(f"{file} cannot be written: {error.strerror}", hint="check the path after -o") from error
