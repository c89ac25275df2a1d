"""Adapters that hold the interpreter, take all memory or kill whoever reads them: each fails alone, within bounds."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.attacks.besieged import alive, children_of, probed
from tests.conftest import ROOT
from tests.making import llama_modules, write_adapter, write_base
from tests.warm.running import Running, error_of

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])
HOOK = """import sys
if any("lora_cli.isolation" in word for word in sys.orig_argv):
    import os, re, signal, time
    from lora_cli.judging import judge as judging

    fetch_one, judge_fetched = judging.fetch_one, judging.judge_fetched

    def busy(name):
        if "stuck" in name:  # one call into C, which gives the interpreter to nobody
            re.match("(a+)+b", "a" * 60)
        elif "greedy" in name:
            kept = []
            while True:
                kept.append(bytes(10_000_000))  # not written to, so that it does not depend on the machine
        elif "raises" in name:
            raise ZeroDivisionError("nobody" + " foresaw it")
        elif "dies" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        elif "silent" in name:
            time.sleep(60)

    def fetch(item, *args, **more):
        if item.name.startswith("fetch-"):
            busy(item.name)
        return fetch_one(item, *args, **more)

    def judge(fetched, *args, **more):
        busy(fetched.name)
        return judge_fetched(fetched, *args, **more)

    judging.fetch_one, judging.judge_fetched = fetch, judge
"""
"""What an adapter might make the server's processes do, by its name: while it is fetched, or judged."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """One that gives an adapter five seconds."""
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "root" / "good", modules=QUERIES)
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    argv = (tmp_path / "root" / "good", "--base", tmp_path / "base", "--root", tmp_path / "root")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with Running(tmp_path, *argv, PYTHONPATH=path, LORA_CLI_ADAPTER_TIMEOUT="5s") as running:
        yield running.until_ready()


def test_a_server_answers_beside_all_of_them_and_ends_when_told(server: Running) -> None:
    assert error_of(server.load("raises", "good"))[0] == 500
    assert "a bug of lora-cli: ZeroDivisionError" in server.said()
    names = ["stuck-1", "greedy", "dies"]
    with ThreadPoolExecutor(len(names)) as clients, probed(server, "/health"), probed(server, "/metrics"):
        loads = {name: clients.submit(server.load, name, "good") for name in names}
        said = {name: error_of(load.result()) for name, load in loads.items()}
    assert {status for status, _ in said.values()} == {422}
    assert "needs more memory than is allowed" in said["greedy"][1]
    assert "killed by SIGKILL" in said["dies"][1]
    assert "takes longer than 5 s" in said["stuck-1"][1]
    assert server.load("beside", "good").status_code == 200
    with ThreadPoolExecutor(1) as clients:
        hanging = clients.submit(server.load, "stuck-2", "good")
        time.sleep(1)
        children = children_of(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.said()
        assert not any(map(alive, children))
        assert hanging.exception() is not None or hanging.result().status_code >= 500


def test_no_process_outlives_a_server_that_is_killed(server: Running) -> None:
    with ThreadPoolExecutor(2) as clients:
        loads = [clients.submit(server.load, name, "good") for name in ("silent", "fetch-silent")]
        time.sleep(1.5)
        children = children_of(server.process.pid)
        assert len(children) >= 3
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.until(lambda: not any(map(alive, children)))
        assert all(load.exception() is not None or load.result().status_code >= 500 for load in loads)
