"""What works beside a command ends with it, however that ends."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lora_cli.bench.process_pool import parallel_map
from lora_cli.errors import MachineError
from lora_cli.forks import forks, processors

LONG = ["serve-bench", "--simulate", "--num-prompts", "400000"]
"""Longer by far than any test waits."""

RUN = """if True:
    import signal, sys
    from lora_cli.cli.main import main
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    sys.exit(main(sys.argv[1:]))
"""

BUSY = """if True:
    import signal, time
    from lora_cli.forks import forks

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


@pytest.mark.skipif(processors() < 2, reason="one processor has no copies")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_simulation_leaves_no_process_behind(sent: signal.Signals) -> None:
    with begun(["-c", RUN, *LONG]) as process:
        wait_until(lambda: len(children(process.pid)) >= 2)
        _, err, pids = ended(process, sent)
    wait_until(lambda: all(map(is_gone, pids)), 2)
    assert process.returncode == (130 if sent is signal.SIGINT else -sent)
    assert err == ("interrupted: no policy finished, lru, lfu, opt not\n" if sent is signal.SIGINT else "")


@pytest.mark.slow
@pytest.mark.skipif(processors() < 2, reason="one processor has no copies")
def test_policies_that_are_done_are_told_when_a_simulation_is_interrupted() -> None:
    argv = ["serve-bench", "--simulate", "--num-prompts", "100000", "--eviction", "lru,lfu", "--format", "json"]
    with begun(["-c", RUN, *argv]) as process:
        wait_until(lambda: len(children(process.pid)) == 2)
        first, second = children(process.pid)
        os.kill(second, signal.SIGSTOP)
        wait_until(lambda: is_gone(first))
        os.kill(second, signal.SIGCONT)
        time.sleep(0.1)
        out, err, _ = ended(process, signal.SIGINT)
    assert process.returncode == 130
    assert err == "interrupted: lru finished, lfu not\n"
    assert list(json.loads(out)["policies"]) == ["lru"]


@pytest.mark.skipif(processors() < 2, reason="one processor has no copies")
def test_policies_that_are_done_are_told_when_a_plan_is_interrupted() -> None:
    goal = ["--plan", "hit_ratio>=0.9", "--eviction", "lru,lfu", "--format", "json"]
    with begun(["-c", RUN, *LONG, *goal]) as process:
        wait_until(lambda: len(children(process.pid)) == 2)
        *_, pids = ended(process, signal.SIGINT)
    wait_until(lambda: all(map(is_gone, pids)), 2)
    assert process.returncode == 130


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # pytest-xdist's threads
def test_what_a_copy_cannot_do_is_raised_here_and_one_that_is_killed_is_told() -> None:
    with pytest.raises(MachineError, match="too large"):
        list(parallel_map(refuse, [1, 2, 3], parallel=True))
    if processors() > 1:
        with pytest.raises(MachineError, match="was killed"):
            list(parallel_map(die, [1, 2, 3], parallel=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # pytest-xdist's threads
def test_more_tasks_than_processors_are_all_done() -> None:
    assert sorted(parallel_map(square, range(20), parallel=True)) == [number**2 for number in range(20)]


def square(number: int) -> int:
    return number**2


def refuse(number: int) -> int:
    raise MachineError(f"{number} is too large")


def die(_number: int) -> int:
    os._exit(9)


def test_a_copy_that_is_ended_as_it_begins_runs_no_handler_of_this_process(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys, time
        from lora_cli.forks import forks

        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray and others have it
        fork = os.fork

        def slow_fork():
            pid = fork()
            time.sleep(0.3 if pid == 0 else 0)
            return pid

        os.fork = slow_fork
        try:
            with forks() as start:
                start(lambda send: send(0))
        except SystemExit:
            print("a copy left its work", flush=True)
        else:
            print("once", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "once\n"
