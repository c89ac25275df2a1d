"""Why a container ended, where Kubernetes looks for it: its file for the termination message.

https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lora_cli.errors import LoraCliError

FILE = "/dev/termination-log"
LARGEST = 4096
"""Bytes of it that Kubernetes keeps."""


@contextmanager
def termination_log(file: str = FILE) -> Iterator[None]:
    """What ends the block is said there too."""
    try:
        yield
    except LoraCliError as error:
        note(f"{error.message}\n{error.hint}".rstrip(), file)
        raise


def note(reason: str, file: str = FILE) -> None:
    """``reason`` into the file, where there is one that can be written; nothing is created."""
    with suppress(OSError):
        descriptor = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = reason.encode("utf-8", "backslashreplace")
            os.write(descriptor, data if len(data) <= LARGEST else data[: LARGEST - 4] + b" ...")
        finally:
            os.close(descriptor)
