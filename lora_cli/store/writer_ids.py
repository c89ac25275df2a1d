"""Writers: unique names for unfinished files, from which other processes see whether the writer is still alive."""

import functools
import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

UNKNOWN = 0
_NAME = re.compile(r"([0-9a-f]{12})\.(\d{1,10})\.(\d{1,20})\.([0-9a-f]{12})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Writer:
    """One writer, globally unique.

    ``place`` identifies the boot of a machine and a process namespace, ``started`` is the clock tick at which the
    process started (0: unknown), ``token`` is random. With a ``pid`` of 0 the file was released.
    """

    place: str
    pid: int
    started: int
    token: str

    def __str__(self) -> str:
        return f"{self.place}.{self.pid}.{self.started}.{self.token}"


def new_writer() -> Writer:
    """A new name for a file or folder that this process is going to write."""
    pid = os.getpid()
    return Writer(_boot_and_namespace(), pid, _started(pid) or UNKNOWN, os.urandom(6).hex())


def let_go(writer: Writer) -> Writer:
    """The name under which ``writer`` releases its file to other processes."""
    return Writer(writer.place, 0, 0, writer.token)


def parse_writer(name: str) -> Writer | None:
    """The writer of that name; None if it is not a writer's name."""
    match = _NAME.fullmatch(name)
    return Writer(match[1], int(match[2]), int(match[3]), match[4]) if match else None


def state(writer: Writer) -> Literal["alive", "dead", "elsewhere"]:
    """Whether the writer can still write. For one ``elsewhere``, on another machine, only a heartbeat shows it."""
    if writer.pid == 0:
        return "dead"
    if writer.place != _boot_and_namespace():
        return "elsewhere"
    started = _started(writer.pid)
    if started is None:
        return "dead"
    return "alive" if UNKNOWN in {started, writer.started} or started == writer.started else "dead"


@functools.cache
def _boot_and_namespace() -> str:
    """A hash of host, boot and process namespace, within which a pid is unique."""
    parts = [os.uname().nodename]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]


def _started(pid: int) -> int | None:
    """When a process started (0 if the system does not report it); None if no process of that id can still write."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass  # Another user's process: it is alive.
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        # Field 3 is the state, field 22 the start time; a zombie has closed its files.
        return None if fields[0] in {b"Z", b"X", b"x"} else int(fields[19])
    except (OSError, IndexError, ValueError):
        return UNKNOWN
