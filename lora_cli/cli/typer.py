"""What the command modules use of typer, under its own names and without its import, which costs more than most runs.

``Option`` and ``Argument`` note what they are told. ``cli.plain`` reads a plain command line by these notes; of any
other one (help, a mistake, a variable) ``cli.app`` makes typer's own objects, and typer reads it.
"""

import sys
from typing import Any

from lora_cli.core.harmless import harmless
from lora_cli.redaction import redact


class Declared:
    """What a parameter of a command is told: its flags, and typer's keywords."""

    def __init__(self, *names: str, **said: Any) -> None:
        self.names, self.said = names, said


class Option(Declared):
    """An option of a command, as ``typer.Option`` in an ``Annotated``."""


class Argument(Declared):
    """A word of a command that is no option, as ``typer.Argument`` in an ``Annotated``."""


class Context:
    """What a command is handed: ``obj`` are the settings, ``params`` its own arguments by name."""

    def __init__(self, obj: Any = None, params: dict[str, Any] | None = None) -> None:
        self.obj, self.params = obj, params or {}


class Exit(Exception):
    """The end of a command, with its exit code."""

    def __init__(self, code: int = 0) -> None:
        self.exit_code = code


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Writes to standard output, or to standard error, at once; there nothing is a command, and nothing a secret."""
    stream = sys.stderr if err else sys.stdout
    text = harmless(redact(text)) if err else text
    stream.write(f"{text}\n" if nl else text)
    stream.flush()
