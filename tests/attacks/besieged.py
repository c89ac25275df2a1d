"""A server beside a hostile adapter: whether it still answers probes, its processes, and whether it ends when told."""

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.warm.running import Running

PROBE_S = 1.0
"""So long a probe of a healthy server may take."""


def delay_s(pid: int, thread: int) -> float:
    """How long a thread has waited for a processor that others had: not what a server can be blamed for."""
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def probe_s(running: Running, path: str = "/health") -> float:
    """How long one probe takes, over a connection of its own, without what the machine was busy with otherwise."""
    server, ours = (running.process.pid,) * 2, (os.getpid(), threading.get_native_id())
    before = delay_s(*server) + delay_s(*ours)
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
    try:
        connection.request("GET", path, headers={"host": "localhost"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, (path, answer.status)
    finally:
        connection.close()
    return time.monotonic() - began - (delay_s(*server) + delay_s(*ours) - before)


@contextmanager
def probed(running: Running, path: str = "/health") -> Iterator[list[float]]:
    """Asks again and again while the block runs; gives the seconds that each probe took, and checks them at the end."""
    took: list[float] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                took.append(probe_s(running, path))
            except BaseException as error:
                failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        over.set()
        thread.join()
    assert not failed, failed[:3]
    assert took
    assert max(took) < PROBE_S, sorted(took)[-5:]


def ends_s(running: Running) -> float:
    """How long it takes to end after SIGTERM, with all of its children, measured as ``probe_s`` does."""
    children = children_of(running.process.pid)
    server = (running.process.pid,) * 2
    before = waited = delay_s(*server)
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    while running.process.poll() is None and time.monotonic() - began < 30:
        waited = max(waited, delay_s(*server))
        time.sleep(0.01)
    took = time.monotonic() - began - (waited - before)
    assert running.process.poll() == 0, running.said()
    left = {pid for pid in children if alive(pid)}
    assert not left, f"{left} outlived their server"
    return took


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


def all_end(pids: Iterable[int]) -> bool:
    """Whether all of them have ended within some seconds: one whose interpreter still starts ends a moment later."""
    until = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def resident_mb(pid: int) -> float:
    """The memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
