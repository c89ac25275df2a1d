"""A server's life: where it listens, who may ask, how it ends, and what becomes of it when its process dies."""

import gc
import json
import os
import re
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base
from tests.warm.running import Running, error_of

QUERIES = llama_modules(["q_proj"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base")
    for number in range(3):
        write_adapter(tmp_path / f"a{number}", modules=QUERIES, r=4, seed=number)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx2 leaves its socket to refcounts
def test_a_socket_that_a_dead_server_left_is_for_the_next_ones_user_alone_and_status_finds_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uds = folder / "sock"
    words = ["warm", "--listen", f"unix:{uds}"]
    assert main([*words, "--status"]) == 7
    gc.collect()  # that socket, while this test's mark holds
    assert "cannot connect to" in capsys.readouterr().err
    argv = (folder / "a0", folder / "a1", "--base", folder / "base")
    with Running(folder, *argv, uds=uds) as first:
        first.until_ready().process.kill()
        first.process.wait()
    assert uds.exists()
    with Running(folder, *argv, uds=uds) as running:
        assert running.until_ready().adapter("a0")["state"] == "ready"
        assert stat.S_IMODE(uds.stat().st_mode) == 0o600
        assert main([*words, "--status", "--format", "json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert (status["schema"], status["ready"], status["base"]) == ("lora_cli/status/2", True, "base")
        assert main([*words, "--status"]) == 0
        assert re.search(r"base: ready, cpu float32.*a0 +gpu +ready", capsys.readouterr().out, re.DOTALL)
        assert main([*words, str(folder / "a0"), "--base", str(folder / "base"), "--serve"]) == 6
        assert "check for another server there" in capsys.readouterr().err
        assert running.terminate() == 0
    assert not uds.exists()


def test_with_a_token_only_probes_of_health_are_open_and_it_is_never_logged(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = (folder / "a0", "--base", folder / "base")
    with Running(folder, *argv, host="0.0.0.0", options=["-v"], token="sesame") as running:
        assert running.until_ready().ask("GET", "/health").status_code == 200
        assert running.ask("GET", "/v1/models").status_code == 200
        running.token = ""
        for wrong in (b"Bearer wrong", b"Basic sesame", b"Bearer s\xe9same"):
            assert error_of(running.ask("GET", "/v1/models", authorization=wrong))[0] == 401
        assert running.ask("GET", "/health").status_code == 200
        assert error_of(running.ask("GET", "/metrics"))[0] == 401
        words = ["warm", "--status", "--listen", f"127.0.0.1:{running.port}"]
        assert main(words) == 7
        assert "LORA_CLI_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("LORA_CLI_API_KEY", "sesame")
        assert main(words) == 0
        assert running.terminate() == 0
        assert "sesame" not in running.said()


@pytest.mark.parametrize(
    ("listen", "code", "said"),
    [
        ("unix:no/such/sock", 6, "No such file"),
        ("0.0.0.0:8321", 2, "LORA_CLI_API_KEY"),
        ("ftp://x", 2, "is not the address of a server"),
    ],
)
def test_where_it_cannot_or_must_not_listen_it_says_why(
    folder: Path, listen: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["warm", str(folder / "a0"), "--base", str(folder / "base"), "--serve", "--listen", listen]
    assert main(words) == code
    error = capsys.readouterr().err
    assert said in error
    assert "another server" not in error


KILLER = """import os, signal, sys
if any("lora_cli.warm.server" in word for word in sys.orig_argv):
    from lora_cli.warm import weights
    read = weights.read_tensors

    def deadly(path, infos):
        if any("k_proj" in info.name for info in infos):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, infos)

    weights.read_tensors = deadly
"""


def test_an_adapter_that_kills_the_process_is_marked_and_not_tried_again_until_it_changes(folder: Path) -> None:
    deadly = write_adapter(folder / "deadly", modules=llama_modules(["k_proj"]), seed=8)
    (folder / "hooks").mkdir()
    (folder / "hooks" / "sitecustomize.py").write_text(KILLER)
    path = f"{folder / 'hooks'}:{os.environ.get('PYTHONPATH', '')}"
    argv = (folder / "a0", deadly, folder / "a1", "--base", folder / "base", "--root", folder)
    with Running(folder, *argv, PYTHONPATH=path) as running:
        status = running.until_ready().status()
        assert status["starts"] == 2
        states = {one["name"]: one["state"] for one in status["adapters"]}
        assert states == {"a0": "ready", "deadly": "failed", "a1": "ready"}
        assert "was killed by SIGKILL while it loaded this adapter" in running.adapter("deadly")["error"]
        assert "while it loaded deadly, which is not tried again until it changes" in running.said()
        # Under another name it is the same adapter.
        status_code, message = error_of(running.load("alias", deadly))
        assert (status_code, "while it loaded this adapter" in message) == (503, True)
        assert running.status()["starts"] == 2
        write_adapter(deadly, modules=QUERIES, seed=9)
        assert running.load("alias", deadly).status_code == 200
        assert running.adapter("alias")["state"] == "ready"


def test_what_is_unloaded_while_it_loads_stays_away_after_a_death_too(folder: Path) -> None:
    fresh = write_adapter(folder / "fresh", modules=QUERIES, seed=11)
    with Running(folder, folder / "a0", "--base", folder / "base", "--root", folder) as running:
        pid = running.until_ready().status()["pid"]
        with ThreadPoolExecutor() as threads:
            loading = threads.submit(running.load, "fresh", fresh)
            running.until(lambda: running.post("/v1/unload_lora_adapter", lora_name="fresh").status_code == 200)
            assert loading.result().status_code in {200, 404}
        os.kill(pid, signal.SIGKILL)
        running.until(lambda: not running.ready_file.exists())
        assert [one["name"] for one in running.until_ready().status()["adapters"]] == ["a0"]


@pytest.mark.slow
def test_the_ready_file_is_there_while_the_server_is_ready_and_a_death_is_told_once(folder: Path) -> None:
    with Running(folder, folder / "a0", "--base", folder / "base") as running:
        running.until(lambda: "listening on" in running.said())
        assert not running.ready_file.exists()
        pid = running.until_ready().status()["pid"]
        assert json.loads(running.ready_file.read_text()) == {"pid": running.process.pid, "proved": 1}
        os.kill(pid, signal.SIGKILL)
        running.until(lambda: not running.ready_file.exists())
        assert running.until_ready().ask("GET", "/ready").status_code == 200
        (told,) = [line for line in running.said().splitlines() if "restarting it" in line]
        assert "lower --max-loras or --max-cpu-loras" in told
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0
        assert not running.ready_file.exists()
        assert running.said().endswith("stopped\n")


def test_a_base_that_cannot_be_loaded_ends_it_with_the_reason(folder: Path) -> None:
    weights = folder / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with Running(folder, folder / "a0", "--base", folder / "base") as running:
        assert running.process.wait(60) == 5
        assert "the base's checkpoint is damaged" in running.said()
        assert "Traceback" not in running.said()


@pytest.mark.slow
def test_a_policy_says_which_sources_clients_may_name_and_a_hung_one_delays_nothing(folder: Path) -> None:
    policy = folder / "policy.yaml"
    policy.write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: ['hf://acme/*', 'file://**', '/*']\n")
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(3) as clients:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        argv = (folder / "a0", "--base", folder / "base", "--policy", policy, "--root", folder)
        with Running(folder, *argv, HF_ENDPOINT=endpoint) as running:
            status, message = error_of(running.until_ready().load("sql", "hf://other/sql"))
            assert (status, "allow_sources" in message) == (422, True)
            hung = [clients.submit(running.load, f"hung{number}", "hf://acme/sql") for number in range(3)]
            running.until(lambda: [one["state"] for one in running.status()["adapters"]].count("loading") == 3)
            assert running.load("next", "a1").status_code == 200
            assert not any(one.done() for one in hung)
            assert running.terminate() == 0, "what still waits does not keep it"
            for one in hung:
                with pytest.raises(Exception, match=r".*"):
                    one.result().raise_for_status()
