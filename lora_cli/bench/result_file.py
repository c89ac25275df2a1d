"""Results that were kept, read again: by whom and when they were written, nobody knows."""

from pathlib import Path
from typing import Any

from lora_cli.core import parse
from lora_cli.errors import FormatError, MachineError, NotFound, UsageError

LARGEST_FILE = 256 << 20
HINT = "--save-result writes one"


def read_result(file: Path, flag: str) -> dict[str, Any]:
    """The document that is in ``file``.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no JSON object, or too large.
        MachineError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise NotFound(f"{flag} {file}: there is no such file", hint=HINT) from error
    except OSError as error:
        raise MachineError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{flag} {file}: is larger than {LARGEST_FILE >> 20} MiB")
    try:
        return parse.json_object(data, str(file))
    except FormatError as error:
        raise UsageError(f"{flag} {error.message}", hint=HINT) from error
