"""The process that owns the device is stopped, busy or still starting: its server answers, and ends, all the same."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.attacks.besieged import alive, all_end, children_of, ends_s, probed
from tests.making import llama_modules, write_adapter, write_base
from tests.warm.running import Running, error_of
from tests.warm.test_process_ends import slow_import, wait_for

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base")
    for number in range(2):
        write_adapter(tmp_path / f"a{number}", modules=QUERIES, seed=number)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Running]:
    argv = (folder / "a0", "--base", folder / "base", "--root", folder, "--metrics-file", folder / "metrics")
    with Running(folder, *argv) as running:
        yield running.until_ready()


def owner_of_the_device(server: Running) -> int:
    pid: int = server.status()["child_pid"]
    return pid


def test_a_server_ends_while_the_process_still_starts(folder: Path) -> None:
    (folder / "hook").mkdir()
    (folder / "hook" / "torch.py").write_text(slow_import(folder / "begun"))
    path = os.pathsep.join([str(folder / "hook"), str(Path(__file__).parents[2])])
    with Running(folder, folder / "a0", "--base", folder / "base", PYTHONPATH=path) as running:
        wait_for(folder / "begun")
        with probed(running):
            time.sleep(0.5)
        assert running.ask("GET", "/ready").status_code == 503
        assert running.ask("GET", "/metrics").status_code == 200
        assert len(children_of(running.process.pid)) >= 3
        assert ends_s(running) < 1.5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_server_that_goes_while_it_starts(folder: Path, number: int) -> None:
    (folder / "hook").mkdir()
    hog = slow_import(folder / "begun").replace("time.sleep(60)", "import re; re.match('(a+)+b', 'a' * 60)")
    (folder / "hook" / "torch.py").write_text(hog)
    path = os.pathsep.join([str(folder / "hook"), str(Path(__file__).parents[2])])
    with Running(folder, folder / "a0", "--base", folder / "base", PYTHONPATH=path) as running:
        wait_for(folder / "begun")
        children = children_of(running.process.pid)
        running.process.send_signal(number)
        running.process.wait(10)
        assert all_end(children), "none of them has the interpreter to notice"


def test_a_second_start_is_ended_too(server: Running) -> None:
    """The process died, and is being started again."""
    os.kill(owner_of_the_device(server), signal.SIGKILL)
    until = time.monotonic() + 10
    while json.loads(server.ask("GET", "/v1/status").text)["child_starts"] < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert ends_s(server) < 2


def test_the_server_ends_when_told_and_takes_a_stopped_process_along(server: Running) -> None:
    pid = owner_of_the_device(server)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(server.probe, "a0"), clients.submit(server.load, "a1", "a1")]
        time.sleep(1)
        assert not any(one.done() for one in waiting)
        assert ends_s(server) < 3
        for one in waiting:
            assert error_of(one.result())[0] == 503
    assert not alive(pid)
