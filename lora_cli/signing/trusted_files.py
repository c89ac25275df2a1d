"""Files that the operator named: keys, certificates and signatures. It needs none of the extra's packages."""

import os
import stat
from pathlib import Path

from lora_cli.errors import UsageError

LARGEST_KEY = 1 << 20
"""Bytes of a file with a key or certificates."""


def read_trusted(path: Path, limit: int = LARGEST_KEY) -> bytes:
    """A file that the operator named, with a key, certificates or a signature; links are followed.

    Raises:
        UsageError: it is no regular file, cannot be read, or is too large.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and len(data := file.read(limit + 1)) <= limit:
                return data
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="check the path of the file") from error
    raise UsageError(f"{path} is not a regular file of at most {limit} bytes")
