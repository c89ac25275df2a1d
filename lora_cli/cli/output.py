"""Output of a command: its width and colour, files, standard error and the termination log.

The reason why a container ended is also written to Kubernetes' file for termination messages:
https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
"""

import os
import shutil
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lora_cli.errors import MachineError
from lora_cli.redaction import redact
from lora_cli.reports.terminal import rendered
from lora_cli.settings import Settings
from lora_cli.text import escape_ci_commands, safe, safe_lines

if TYPE_CHECKING:
    from lora_cli.reports.terminal import Parts

TERMINAL = threading.RLock()
"""Held while standard error is written to: rich counts lines that two threads write at once wrongly."""

STDOUT = Path("-")
"""Where a file is asked for: standard output."""

FILE_WIDTH = 80
MAX_WIDTH = 120
UNLIMITED = 10_000

Format = Literal["human", "json"]
"""Output formats of most commands."""

VALIDATE_FORMATS = ("human", "json", "sarif", "junit", "github", "html")
"""Output formats of ``validate``; a module of ``reports`` has the name of each machine format."""


def width() -> int:
    """Columns of standard output: ``COLUMNS``, else a terminal's up to 120; in a pipe unlimited: no line is folded."""
    columns = shutil.get_terminal_size().columns
    if os.environ.get("COLUMNS"):
        return columns
    return min(columns, MAX_WIDTH) if sys.stdout.isatty() else UNLIMITED


def render_parts(parts: "Parts", file: Path = STDOUT) -> str:
    """The text of ``parts`` in the width and colour of standard output; for a ``file`` 80 columns without colour.

    rich decides on the colour: on a terminal that can, or with FORCE_COLOR; never with NO_COLOR.
    """
    from rich.console import Console

    console = Console(file=sys.stdout)
    colour = file == STDOUT and console.color_system is not None and not console.no_color
    return rendered(parts, width() if file == STDOUT else FILE_WIDTH, colour=colour)


def write_result(report: object, output_format: str, parts: "Parts", file: Path = STDOUT) -> None:
    """Writes ``report`` as JSON, or its ``parts`` for the terminal, to standard output or to ``file``."""
    from lora_cli.json_schema import to_json

    write(to_json(report) if output_format == "json" else render_parts(parts, file), file)


def write(text: str, file: Path = STDOUT, *, commands: bool = False) -> None:
    """Writes ``text`` as it is to standard output or to ``file``.

    ``commands``: it has workflow commands for a CI server. A file is replaced atomically; a device or a pipe is
    written to directly.

    Raises:
        MachineError: the file cannot be written.
    """
    if file == STDOUT:
        text = text if commands else escape_ci_commands(text)
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
        return
    from lora_cli.store.disk import FULL, write_file

    try:
        write_file(file, text)
    except OSError as error:
        hint = "free some space there, or use a file on a larger disk" if error.errno in FULL else ""
        raise _unwritable(file, error.strerror or "", hint) from error


def to_stderr(line: str) -> None:
    """Writes a line to standard error, without secrets, and without commands for a terminal or a CI server."""
    with TERMINAL:
        sys.stderr.write(f"{safe_lines(redact(line))}\n")
        sys.stderr.flush()


def inform(message: str, settings: Settings) -> None:
    """Writes a line to standard error, unless ``--quiet``."""
    if not settings.quiet:
        to_stderr(safe(message))


def check_writable(file: Path | None) -> None:
    """Checks before the work that ``file`` can be written, if one is given.

    Raises:
        MachineError: it is a folder, or its folder does not exist or is not writable.
    """
    if file in {None, STDOUT} or (file.exists() and not file.is_file() and not file.is_dir()):
        return
    folder = Path(os.path.realpath(file)).parent
    if file.is_dir() or not folder.is_dir():
        raise _unwritable(file, "it is a folder" if file.is_dir() else "the folder does not exist")
    if not os.access(folder, os.W_OK):
        raise _unwritable(file, "its folder is read-only")


def _unwritable(file: Path, why: str, hint: str = "") -> MachineError:
    return MachineError(f"{file} cannot be written: {why}", hint=hint or "check the path of the output file")


def remove_ready_file(file: Path | None) -> None:
    """Removes the ready file of an earlier run, if there is one; a device or a pipe stays.

    Raises:
        MachineError: it cannot be removed.
    """
    if file is not None and file.is_file():
        from lora_cli.store.disk import on_disk

        with on_disk("removing", file, "--ready-file"):
            file.unlink(missing_ok=True)


def log_failures(failures: Iterable[tuple[str, str, str]]) -> None:
    """Writes the name, message and stage of each failed adapter to the termination log, a line each."""
    told = ((name, stage, message.removeprefix(f"{name}: ")) for name, message, stage in failures)
    if text := "\n".join(": ".join(filter(None, one)) for one in told):
        write_termination_log(text)


def write_termination_log(reason: str) -> None:
    """Writes ``reason`` to the termination log, if that exists and is writable. Kubernetes keeps 4096 bytes of it."""
    with suppress(OSError), Path("/dev/termination-log").open("r+b") as log:
        log.truncate()
        log.write(reason.encode("utf-8", "backslashreplace")[:4096])
