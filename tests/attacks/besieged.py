"""A server beside a hostile adapter: whether it still answers probes, and its processes."""

import http.client
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.warm.running import Running


@contextmanager
def probed(running: Running, path: str) -> Iterator[None]:
    """Asks again and again while the block runs; each probe must be answered, however slow the machine is."""
    answered: list[int] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            try:
                connection.request("GET", path, headers={"host": "localhost"})
                answered.append(connection.getresponse().status)
            except BaseException as error:
                failed.append(error)
            finally:
                connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed[:3]
    assert {*answered} == {200}


def children_of(pid: int) -> set[int]:
    """The processes that a process has started, and those that they have."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == pid:
                found |= {int(entry.name)} | children_of(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def resident_mb(pid: int) -> float:
    """The memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
