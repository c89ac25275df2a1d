"""Writers: names that show whether their process is still alive, as far as that is known."""

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

    ``place`` is a boot of a machine and a process namespace, ``started`` the clock tick there (0: not known),
    ``token`` random. A ``pid`` of 0 has let go.
    """

    place: str
    pid: int
    started: int
    token: str

    def __str__(self) -> str:
        return f"{self.place}.{self.pid}.{self.started}.{self.token}"


def new_writer() -> Writer:
    """A new name for something that this process is going to write."""
    pid = os.getpid()
    return Writer(_place(), pid, _started(pid) or UNKNOWN, os.urandom(6).hex())


def let_go(writer: Writer) -> Writer:
    """The name under which ``writer`` leaves its work to other processes."""
    return Writer(writer.place, 0, 0, writer.token)


def parse_writer(name: str) -> Writer | None:
    """The writer of that name, or None when it is no such name."""
    match = _NAME.fullmatch(name)
    return Writer(match[1], int(match[2]), int(match[3]), match[4]) if match else None


def state(writer: Writer) -> Literal["alive", "dead", "elsewhere"]:
    """Whether the writer can still write. ``elsewhere`` is another machine: only a heartbeat shows it."""
    if writer.pid == 0:
        return "dead"
    if writer.place != _place():
        return "elsewhere"
    started = _started(writer.pid)
    if started is None:
        return "dead"
    return "alive" if UNKNOWN in {started, writer.started} or started == writer.started else "dead"


@functools.cache
def _place() -> str:
    """Where a pid means the same process: host, boot and process namespace."""
    parts = [os.uname().nodename]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]


def _started(pid: int) -> int | None:
    """When a process began (0 if the system does not report it), or None when none of that id can write any more."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass  # It is somebody else's: it lives.
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        # Field 3 is the state, field 22 the start time; a zombie has closed its files.
        return None if fields[0] in {b"Z", b"X", b"x"} else int(fields[19])
    except (OSError, IndexError, ValueError):
        return UNKNOWN
