"""Servers as processes of their own on loopback: started, waited for, and stopped."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

READY_S = 30.0
STOP_S = 10.0
numbers = itertools.count()


def needed(program: str) -> str:
    """The path of a program that ``.ci/run`` installs; without it the test fails."""
    return shutil.which(program) or pytest.fail(f"{program} is not installed: .ci/run installs it")


@contextmanager
def running(
    command: Callable[[int], Sequence[str]],
    log: Path,
    offsets: Sequence[int],
    answers: Callable[[str], bool] | None = None,
) -> Iterator[str]:
    """The process on a free port, once it answers anything at all; its endpoint."""
    for _ in range(3):
        port = free_port(offsets)
        endpoint = f"http://127.0.0.1:{port}"
        with log.open("wb") as stream:
            environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
            process = subprocess.Popen(
                command(port), stdout=stream, stderr=subprocess.STDOUT, cwd=log.parent, env=environ
            )
        try:
            if started(process, endpoint, answers or answers_http):
                yield endpoint
                return
        finally:
            stop(process)
    raise RuntimeError(f"{log.name}: {log.read_text(errors='replace')[-2000:]}")


def started(process: "subprocess.Popen[bytes]", endpoint: str, answers: Callable[[str], bool]) -> bool:
    """Whether it came up. Somebody else may have taken the port meanwhile: then the process has ended."""
    wait(lambda: process.poll() is not None or answers(endpoint), endpoint)
    return process.poll() is None


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait(done: Callable[[], bool], what: object) -> bool:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if done():
                return True
        except Exception:
            time.sleep(0.05)
        time.sleep(0.02)
    raise TimeoutError(f"{what}: not ready in {READY_S:g} s")


def answers_http(endpoint: str) -> bool:
    try:
        urlopen(endpoint, timeout=2).close()
    except HTTPError:
        return True
    except (URLError, OSError):
        return False
    return True


def listens(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def free_port(offsets: Sequence[int]) -> int:
    """A port below 50 000 at which, with these offsets, nobody listens."""
    start = 20_000 + (os.getpid() * 37 + next(numbers) * 101) % 20_000
    for port in itertools.chain(range(start, 45_000, 11), range(20_000, start, 11)):
        if all(is_free(port + offset) for offset in offsets):
            return port
    raise RuntimeError("no free ports")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
