"""Saved results, read again: untrusted files."""

from pathlib import Path
from typing import Any

from lora_cli.core import parse
from lora_cli.errors import FormatError, MachineError, NotFound, UsageError

LARGEST_FILE = 256 << 20
HINT = "--save-result writes one"


def read_result(file: Path, flag: str, hint: str = HINT) -> dict[str, Any]:
    """The document that is in ``file``; ``hint`` is that of the errors.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no JSON object, or too large.
        MachineError: it cannot be read.
    """
    data = read_bounded(file, flag, LARGEST_FILE, hint)
    try:
        return parse.json_object(data, str(file))
    except FormatError as error:
        raise UsageError(f"{flag} {error.message}", hint=hint) from error


def read_bounded(file: Path, flag: str, most: int, hint: str = "") -> bytes:
    """The bytes of the file that ``flag`` names, at most ``most`` of them; raises as ``read_result``."""
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{flag} {file}: not found", hint=hint) from error
    except OSError as error:
        raise MachineError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > most:
        raise UsageError(f"{flag} {file}: is larger than {most >> 20} MiB")
    return data
