"""A server's life: where it listens, who may ask, how it ends, and what it leaves."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base
from tests.warm.running import PATIENCE_S, Running, error_of

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base")
    for number in range(3):
        write_adapter(tmp_path / f"a{number}", modules=QUERIES, r=4, seed=number)
    return tmp_path


def test_a_socket_that_a_dead_server_left_is_for_the_next_ones_user_alone_and_status_and_stop_find_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uds, metrics = folder / "sock", folder / "metrics.prom"
    words = ["warm", "--uds", str(uds)]
    assert main([*words, "--status"]) == 7
    assert "cannot connect to" in capsys.readouterr().err
    argv = (folder / "a0", folder / "a1", "--base", folder / "base", "--metrics-file", metrics)
    with Running(folder, *argv, uds=uds) as first:
        first.until_ready().process.kill()
        first.process.wait()
    assert uds.exists()
    first.ready_file.unlink()
    with Running(folder, *argv, uds=uds) as running:
        assert running.until_ready().probe("a0").status_code == 200
        assert stat.S_IMODE(uds.stat().st_mode) == 0o600
        assert main([*words, "--status", "--format", "json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert (status["schema"], status["ready"], status["base"]) == ("lora_cli/status/1", True, "base")
        assert main([*words, "--status"]) == 0
        told = capsys.readouterr().out
        assert "base: ready, cpu float32" in told
        assert "proved" in told
        second = subprocess.run(
            [sys.executable, "-m", "lora_cli", *words, str(folder / "a0"), "--base", str(folder / "base"), "--serve"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, "cannot listen on" in second.stderr) == (6, True)
        assert main([*words, "--stop"]) == 0
        assert running.process.wait(20) == 0
        assert not uds.exists()
        assert not running.ready_file.exists()
        assert "lora_cli_ready" in metrics.read_text()


def test_with_a_token_only_probes_of_health_are_open_and_they_alone_are_not_logged_from_level_info_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = (folder / "a0", "--base", folder / "base", "--host", "0.0.0.0", "--log-level", "info")
    with Running(folder, *argv, token="sesame") as running:
        assert running.until_ready().ask("GET", "/health").status_code == 200
        assert running.ask("GET", "/v1/models").status_code == 200
        assert running.ask("GET", "/no/such%1b%5b31m%0a").status_code == 404
        running.token = "another-secret-token"
        assert running.ask("GET", "/v1/models").status_code == 401
        requests = requests_in(said := running.said())
        assert len(requests) == 3, said
        assert re.match(r"\d{4}-\d\d-\d\d .* INFO 127\.0\.0\.1:\d+ - \"GET /v1/models HTTP/1\.1\" 200$", requests[0])
        assert "secret-token" not in said
        assert "\x1b" not in said
        running.token = "sesame"
        assert running.probe("a0").status_code == 200
        running.token = ""
        for wrong in (b"Bearer wrong", b"Basic sesame", b"Bearer s\xe9same"):
            assert error_of(running.ask("GET", "/v1/models", authorization=wrong))[0] == 401
        assert running.ask("GET", "/health").status_code == 200
        assert error_of(running.ask("GET", "/metrics"))[0] == 401
        words = ["warm", "--port", str(running.port)]
        assert main([*words, "--stop"]) == 7
        assert "LORA_CLI_API_KEY" in capsys.readouterr().err
        assert main([*words, "--stop", "--api-key", "sesame"]) == 0
        assert running.process.wait(20) == 0
        assert "sesame" not in running.said()


def test_where_no_socket_can_be_is_not_said_to_be_another_server(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for uds, why in (("no/such/sock", "No such file"), ("a" * 200, "too long")):
        words = ["warm", str(folder / "a0"), "--base", str(folder / "base"), "--serve", "--uds", str(folder / uds)]
        assert main(words) == 6
        said = capsys.readouterr().err
        assert why in said
        assert "another server" not in said


def test_what_can_be_reached_from_elsewhere_needs_a_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["warm", str(folder / "a0"), "--base", str(folder / "base"), "--serve", "--host", "0.0.0.0"]
    assert main(words) == 2
    assert "LORA_CLI_API_KEY" in capsys.readouterr().err


@pytest.fixture
def terminal() -> Iterator[None]:
    """As if the tests ran in one: whoever runs them with nohup has SIGHUP ignored in all that they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
def test_sigterm_ends_it_in_time_as_a_terminal_that_is_closed_does(folder: Path) -> None:
    known = [folder / f"a{number}" for number in range(3)]
    argv = (*known, "--base", folder / "base", "--max-loras", 1, "--max-cpu-loras", 1)
    with Running(folder, *argv) as running:
        running.until_ready()
        assert running.adapter("a0")["proved"] is True
        began = time.monotonic()
        assert running.terminate() == 0
        assert time.monotonic() - began < 15
        assert not running.ready_file.exists()
    with Running(folder, *argv) as running:
        running.until_ready()
        child = running.status()["child_pid"]
        os.kill(child, signal.SIGHUP)  # a terminal tells all of its processes
        assert running.probe("a2").status_code == 200
        assert running.status()["child_pid"] == child
        running.process.send_signal(signal.SIGHUP)
        assert running.process.wait(20) == 0
        assert not running.ready_file.exists()
        assert "stopped" in running.said()


def test_what_cache_rm_takes_from_under_it_is_brought_again(folder: Path) -> None:
    adapters = [folder / f"a{number}" for number in range(3)]
    limits = ("--max-loras", 1, "--max-cpu-loras", 1)
    with Running(folder, *adapters, "--base", folder / "base", *limits) as running:
        running.until_ready()
        assert [running.probe(path.name).status_code for path in adapters] == [200] * 3
        assert main(["--cache-dir", str(folder / "cache"), "cache", "rm", *map(str, adapters)]) == 0
        tiers = [running.probe(path.name).headers.get("x-lora-tier") for path in reversed(adapters)]
        assert tiers == ["gpu", "remote", "remote"]
        adapters[1].rename(folder / "elsewhere")
        assert main(["--cache-dir", str(folder / "cache"), "cache", "rm", *map(str, adapters[:2])]) == 0
        status, message = error_of(running.probe("a1"))
        assert (status, "there is no folder" in message) == (404, True)
        assert running.adapter("a1")["stage"] == "resolve"
        assert running.probe("a0").status_code == 200


@pytest.mark.usefixtures("terminal")
def test_nohup_keeps_it_when_its_terminal_is_closed() -> None:
    said = "from lora_cli.serving.signals import ending_signals; print([number.name for number in ending_signals()])"
    for before, names in (([], ["SIGTERM", "SIGINT", "SIGHUP"]), (["nohup"], ["SIGTERM", "SIGINT"])):
        words = [*before, sys.executable, "-c", said]
        found = subprocess.run(words, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        assert found.stdout.strip() == str(names)


def test_what_does_not_fit_ends_it_with_the_bytes_it_is_short_of(folder: Path) -> None:
    slots = ("--max-loras", 100_000, "--max-cpu-loras", 100_000, "--max-lora-rank", 4096)
    with Running(folder, folder / "a0", "--base", folder / "base", *slots) as running:
        assert running.process.wait(60) == 6
        assert "too few" in running.said()
        assert "Traceback" not in running.said()


def test_a_policy_says_which_sources_clients_may_name(folder: Path) -> None:
    policy = folder / "policy.yaml"
    allowed = f"file://{folder}/*"
    policy.write_text(f"apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: ['hf://acme/*', '{allowed}']\n")
    with Running(folder, "--base", folder / "base", "--policy", policy, HF_HUB_OFFLINE="1") as running:
        running.until_ready()
        status, message = error_of(running.load("sql", "hf://other/sql"))
        assert (status, "allow_sources" in message) == (422, True)
        assert error_of(running.load("sql", "hf://acme/sql"))[0] == 404, "allowed, and not to be reached offline"
        assert running.terminate() == 0


def test_a_hung_source_delays_no_other_adapter(folder: Path) -> None:
    """A FIFO is refused, so the hang is a server that never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        policy = folder / "policy.yaml"
        policy.write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: ['hf://*', 'file://**', '/*']\n")
        argv = (folder / "a0", "--base", folder / "base", "--policy", policy, "--root", folder)
        quiet = ("--log-level", "warning")
        with Running(folder, *argv, *quiet, HF_ENDPOINT=f"http://127.0.0.1:{port}") as running:
            running.until_ready()
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(8) as clients:
                hung = [clients.submit(running.load, f"hung{number}", "hf://acme/sql") for number in range(8)]
                time.sleep(0.3)
                began = time.monotonic()
                assert running.load("next", "a1").status_code == 200
                assert running.probe("a0").headers["x-lora-tier"] in {"gpu", "cpu"}
                assert time.monotonic() - began < 10
                assert not any(one.done() for one in hung)
                assert running.terminate() == 0, "what still waits does not keep it"
                for one in hung:
                    with pytest.raises(Exception, match=r".*"):
                        one.result().raise_for_status()
            assert requests_in(running.said()) == []


def test_environment_of_a_kubernetes_service_of_its_name_is_not_its_port(folder: Path) -> None:
    environ = {
        **os.environ,
        "LORA_CLI_PORT": "tcp://10.0.0.1:80",
        "LORA_CLI_SERVICE_HOST": "10.0.0.1",
        "LORA_CLI_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    words = ["warm", "--status", "--host", "127.0.0.2"]  # where no server is that somebody runs on this machine
    asked = subprocess.run(
        [sys.executable, "-m", "lora_cli", *words], capture_output=True, text=True, env=environ, check=False
    )
    assert (asked.returncode, "warning" in asked.stderr) == (7, False)
    assert "127.0.0.2:8321" in asked.stderr


def test_the_ready_file_is_there_while_the_server_is_ready_and_each_death_of_the_child_is_logged_once(
    folder: Path,
) -> None:
    """With its reason; an end that was wanted is not logged."""
    (folder / "ready").write_text("of an earlier run that was killed")
    with Running(folder, folder / "a0", "--base", folder / "base") as running:
        until(running, lambda: "listening on" in running.said())
        assert not running.ready_file.exists()
        for deaths in (1, 2):
            child = running.until_ready().status()["child_pid"]
            os.kill(child, signal.SIGKILL)
            until(running, lambda: not running.ready_file.exists())
            assert running.ask("GET", "/ready").status_code == 503
            running.until_ready()
            assert running.ask("GET", "/ready").status_code == 200
            assert running.status()["child_pid"] != child
            logged = [line for line in running.said().splitlines() if "restarting it" in line]
            assert len(logged) == deaths
            assert running.said().count("the warm process is ready again\n") == deaths
            assert "the warm process was killed by SIGKILL" in logged[-1]
            assert "lower --max-loras or --max-cpu-loras" in logged[-1]
        assert running.terminate() == 0
        assert running.said().count("restarting it") == 2


def test_a_file_that_cannot_be_written_is_said_once_until_it_can(folder: Path) -> None:
    ready = folder / "run" / "ready"
    ready.parent.mkdir()
    with Running(folder, folder / "a0", "--base", folder / "base", ready_file=ready) as running:
        running.until_ready()
        for times in (1, 2):
            shutil.rmtree(ready.parent)
            ready.parent.touch()
            until(running, lambda times=times: running.said().count(f"{ready} cannot be written: ") == times)  # type: ignore[misc]
            time.sleep(1)
            assert running.said().count("cannot be written") == times
            ready.parent.unlink()
            until(running, ready.exists)


def until(running: Running, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, running.said()
        time.sleep(0.02)


def requests_in(log: str) -> list[str]:
    """Its lines that are about requests."""
    return [line for line in log.splitlines() if "HTTP/1.1" in line]


def test_the_log_level_is_only_of_a_server(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warm", str(folder / "a0"), "--base", str(folder / "base"), "--log-level", "info"]) == 2
    assert "--log-level is for --serve" in capsys.readouterr().err
