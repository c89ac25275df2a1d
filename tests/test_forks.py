"""What works beside a command ends with it, however that ends."""

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lora_cli.parallel import forks

BUSY = """if True:
    import signal, time
    from lora_cli.parallel import forks

    signal.signal(signal.SIGINT, signal.default_int_handler)

    def work(send):
        send(0)
        while True:
            pass

    with forks() as start:
        for pipe in [start(work), start(work), start(work)]:
            pipe.recv()
        print("busy", flush=True)
        time.sleep(60)
"""


def begun(argv: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(holds: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(process: "subprocess.Popen[str]", sent: signal.Signals) -> tuple[str, str, list[int]]:
    """What it said, and its children, once it was sent a signal alone; nobody may hold its pipes open after it."""
    pids = children(process.pid)
    process.send_signal(sent)
    out, err = process.communicate(timeout=5)
    return out, err, pids


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is copied")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_copies_end_with_the_process_however_that_ends(sent: signal.Signals) -> None:
    with begun(["-c", BUSY]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        *_, pids = ended(process, sent)
    assert len(pids) == 3
    wait_until(lambda: all(map(is_gone, pids)), 2)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # pytest-xdist's threads
def test_copies_that_are_still_at_work_end_with_the_block() -> None:
    with forks() as start:
        assert start(send_and_wait).recv() == "begun"
    assert multiprocessing.active_children() == []


def send_and_wait(send: Callable[[str], None]) -> None:
    send("begun")
    time.sleep(60)
