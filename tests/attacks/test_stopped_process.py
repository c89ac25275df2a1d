"""The process that owns the device is stopped, busy or still starting: its server answers, and ends, all the same."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.attacks.besieged import alive, all_end, children_of, ends_s, probed
from tests.making import llama_modules, write_adapter, write_base
from tests.runtime.test_process_ends import slow_import, wait_for
from tests.serving.running import Running, error_of
from tests.slow import slowly

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


def write_folder(folder: Path) -> Path:
    write_base(folder / "base")
    for number in range(2):
        write_adapter(folder / f"a{number}", modules=QUERIES, seed=number)
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[Running]:
    argv = (folder / "a0", "--base", folder / "base", "--root", folder, "--metrics-file", folder / "metrics")
    with Running(folder, *argv) as running:
        yield running.until_ready()


@pytest.fixture
def server(folder: Path) -> Iterator[Running]:
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """For tests whose process goes on."""
    with serving(write_folder(tmp_path_factory.mktemp("lasting"))) as running:
        yield running


def owner_of_the_device(server: Running) -> int:
    pid: int = server.status()["child_pid"]
    return pid


@contextmanager
def stopped(server: Running) -> Iterator[int]:
    """The process that owns the device, which does nothing until it is told to go on."""
    assert server.status()["tiers"]["gpu"]["adapters"] == 1
    pid = owner_of_the_device(server)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)


def test_what_is_known_is_told_with_its_age(lasting: Running, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["warm", "--port", str(lasting.port), "--status"]
    with stopped(lasting):
        time.sleep(1)
        with (
            probed(lasting),
            probed(lasting, "/metrics"),
            probed(lasting, "/v1/status"),
            probed(lasting, "/v1/adapters"),
        ):
            time.sleep(3)
        status = lasting.status()
        assert status["tiers"]["gpu"]["adapters"] == 1
        assert status["tiers_age_s"] > 3
        assert lasting.adapter("a0")["tier"] in {"gpu", "cpu"}
        lines = lasting.ask("GET", "/metrics").text.splitlines()
        metrics = dict(line.split() for line in lines if line and line[0] != "#")
        assert float(metrics['lora_cli_resident_adapters{tier="gpu"}']) == 1
        assert float(metrics["lora_cli_tiers_age_seconds"]) > 3
        began = time.monotonic()
        assert main(words) == 0
        assert time.monotonic() - began < 2
        assert "ago" in capsys.readouterr().out
    time.sleep(0.5)
    assert lasting.status()["tiers_age_s"] < 1
    assert main(words) == 0
    assert "ago" not in capsys.readouterr().out


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


@pytest.mark.parametrize("after_s", slowly((0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0), 0.6, 1.6, 2.5))
def test_a_server_ends_at_any_moment_of_its_start(folder: Path, after_s: float) -> None:
    with Running(folder, folder / "a0", folder / "a1", "--base", folder / "base") as running:
        time.sleep(after_s)
        children = children_of(running.process.pid)
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(10)
        assert time.monotonic() - began < 5
        assert all_end(children)
        assert "Traceback" not in running.said()


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


def test_the_server_ends_when_told_and_takes_it_along(lasting: Running) -> None:
    """The last test of that server."""
    with stopped(lasting) as pid, ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(lasting.probe, "a0"), clients.submit(lasting.load, "a1", "a1")]
        time.sleep(1)
        assert not any(one.done() for one in waiting)
        assert ends_s(lasting) < 3
        for one in waiting:
            assert error_of(one.result())[0] == 503
        assert not alive(pid)
