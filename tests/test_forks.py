"""What works beside a command ends with it, however that ends."""

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.parallel import forks
from tests.processes import wait

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


def is_gone(pid: str) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is copied")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_copies_end_with_the_process_however_that_ends(sent: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(sent)
        process.communicate(timeout=5)  # nobody may hold its pipes open after it
    assert len(pids) == 3
    wait(lambda: all(map(is_gone, pids)), "the copies")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # pytest-xdist's threads
def test_copies_that_are_still_at_work_end_with_the_block() -> None:
    with forks() as start:
        assert start(send_and_wait).recv() == "begun"
    assert multiprocessing.active_children() == []


def send_and_wait(send: Callable[[str], None]) -> None:
    send("begun")
    time.sleep(60)
