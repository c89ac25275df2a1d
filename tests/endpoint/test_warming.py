"""``warm --endpoint``: running engines are made to serve what a manifest says, and each adapter proves itself there."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_cli.cli import warm_endpoint
from lora_cli.cli.main import main
from lora_cli.endpoint.canary import CanaryProof
from lora_cli.endpoint.servers import Completion
from tests.endpoint.engine import BASE, Engine
from tests.endpoint.sets import NAMES, QUERIES, Warm, actions, write_set
from tests.faulty_proxy import FaultyProxy
from tests.making import write_adapter
from tests.sources.raw_servers import CERTIFICATE


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_what_is_missing_is_loaded_and_proved_and_a_second_time_nothing_is_done(warm: Warm, kind: str) -> None:
    with Engine(kind, version="0.32.0" if kind == "vllm" else "0.5.23", down_for=2) as engine:
        code, document = warm(engine)
        assert (code, document["schema"]) == (0, "lora_cli/endpoints/1")
        assert actions(document) == {"sql": "loaded", "chat": "loaded"}
        assert all(one["effect"]["proved"] for one in document["servers"][0]["adapters"])
        assert all("/snapshots/sha256/" in root for root, _ in engine.adapters.values())
        before = list(engine.said)
        code, document = warm(engine)
        assert (code, actions(document)) == (0, {"sql": "kept", "chat": "kept"})
        assert engine.said == before


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_changed_adapter_is_loaded_from_a_new_path_and_proved_before_it_takes_the_name(
    folder: Path, warm: Warm, kind: str
) -> None:
    with Engine(kind) as engine:
        warm(engine)
        old = engine.adapters["sql"]
        shutil.rmtree(folder / "sql")
        write_adapter(folder / "sql", modules=QUERIES, r=4, lora_alpha=32, seed=9)
        engine.said.clear()
        code, document = warm(engine, *(["--allow-unload"] if kind == "sglang" else []))
        assert (code, actions(document)) == (0, {"sql": "replaced", "chat": "kept"})
        assert ("vllm#54839" in document["servers"][0]["note"]) == (kind == "vllm")
        assert engine.adapters["sql"][0] != old[0]
        assert set(engine.adapters) == set(NAMES), "the candidate is gone"
        assert engine.said[0][1].startswith("lora-cli-candidate-")


def test_what_the_manifest_pins_is_pinned_when_it_is_loaded_and_when_it_is_replaced(folder: Path, warm: Warm) -> None:
    manifest = folder / "set.yaml"
    manifest.write_text(manifest.read_text().replace("source: ./sql}", "source: ./sql, pinned: true}"))
    with Engine("sglang", version="0.5.23") as engine, Engine("vllm") as vllm:
        code, document = warm(engine)
        assert (code, engine.pinned, document["servers"][0]["note"]) == (0, {"sql"}, "")
        assert warm(vllm)[1]["servers"][0]["note"].startswith("pinned has no effect: vLLM has no request")
        shutil.rmtree(folder / "sql")
        write_adapter(folder / "sql", modules=QUERIES, r=4, lora_alpha=32, seed=9)
        code, document = warm(engine, "--allow-unload")
        assert (code, actions(document)["sql"], engine.pinned) == (0, "replaced", {"sql"})
        assert re.fullmatch(r"vLLM keeps .*; pinned has no effect.*", warm(vllm)[1]["servers"][0]["note"])


def test_sglang_unloads_nothing_unless_it_is_told_to(folder: Path, warm: Warm) -> None:
    with Engine("sglang", version="0.5.23") as engine:
        warm(engine)
        engine.said.clear()
        before = dict(engine.adapters)
        shutil.rmtree(folder / "sql")
        write_adapter(folder / "sql", modules=QUERIES, r=4, lora_alpha=32, seed=9)
        write_set(folder, "sql")
        code, document = warm(engine, "--prune")
        assert (code, actions(document)) == (1, {"sql": "failed", "chat": "failed"})
        for one in document["servers"][0]["adapters"]:
            assert "sglang#36894" in one["error"]["message"]
            assert "--allow-unload" in one["error"]["hint"]
        assert (engine.said, engine.adapters) == ([], before)
        code, document = warm(engine, "--prune", "--allow-unload")
        assert (code, actions(document)) == (0, {"sql": "replaced", "chat": "pruned"})


@pytest.mark.parametrize("flag", ["tokenizer_worker_num", "dp_size"])
def test_an_engine_whose_workers_a_load_would_not_reach_is_left_alone(warm: Warm, flag: str) -> None:
    with Engine("sglang", version="0.5.23") as engine:
        engine.flags[flag] = 4
        code, document = warm(engine)
        assert (code, engine.said) == (7, [])
        assert f"--{flag.replace('_', '-')} 4" in document["servers"][0]["error"]["message"]


def test_the_way_back_is_the_earlier_lock(folder: Path, warm: Warm, capsys: pytest.CaptureFixture[str]) -> None:
    lock = folder / "set.lock.yaml"
    fetch = ["--cache-dir", str(folder / "cache"), "-q", "fetch", "-f", str(folder / "set.yaml")]
    with Engine() as engine:
        assert main(fetch) == 0
        capsys.readouterr()
        warm(engine)
        old, before = engine.adapters["sql"], lock.read_bytes()
        kept = folder / "kept"
        shutil.copytree(folder / "sql", kept)
        shutil.rmtree(folder / "sql")
        write_adapter(folder / "sql", modules=QUERIES, r=4, lora_alpha=32, seed=9)
        assert main([*fetch, "--upgrade"]) == 0
        capsys.readouterr()
        warm(engine)
        new = engine.adapters["sql"]
        assert new != old
        lock.write_bytes(before)
        shutil.rmtree(folder / "sql")
        kept.rename(folder / "sql")
        code, document = warm(engine)
        assert (code, actions(document)) == (0, {"sql": "replaced", "chat": "kept"})
        assert engine.adapters["sql"] == old


def test_a_changed_adapter_that_does_nothing_does_not_take_the_name(folder: Path, warm: Warm) -> None:
    with Engine() as engine:
        warm(engine)
        old = engine.adapters["sql"]
        shutil.rmtree(folder / "sql")
        write_adapter(folder / "sql", modules=QUERIES, r=4, lora_alpha=0, seed=9)
        code, document = warm(engine, "--engine", "vllm")
        assert code == 1
        assert engine.adapters["sql"] == old
        told = [one for one in [*document["servers"][0]["adapters"], *document["refused"]] if one["name"] == "sql"]
        assert "failed" in {one["action"] for one in told}


def test_a_changed_adapter_with_which_the_engine_does_nothing_does_not_take_the_name(folder: Path, warm: Warm) -> None:
    with Engine() as engine:
        warm(engine)
        old = engine.adapters["sql"]
        shutil.rmtree(folder / "sql")
        write_adapter(folder / "sql", modules=QUERIES, r=4, lora_alpha=32, seed=9)
        engine.idle = True
        code, document = warm(engine)
        assert (code, actions(document)) == (1, {"sql": "failed", "chat": "kept"})
        assert (engine.adapters["sql"], set(engine.adapters)) == (old, set(NAMES))
        sql = next(one for one in document["servers"][0]["adapters"] if one["name"] == "sql")
        assert f"sql is still served from {old[0]}: the new version" in sql["error"]["message"]


def test_an_adapter_that_changes_nothing_is_named_though_the_engine_said_200(warm: Warm, folder: Path) -> None:
    with Engine() as engine:
        warm(engine)
        engine.adapters["sql"] = (engine.adapters["sql"][0], 0.0)
        code, document = warm(engine)
        assert code == 1
        sql = next(one for one in document["servers"][0]["adapters"] if one["name"] == "sql")
        assert sql["effect"]["proved"] is False
        assert "sql gives the same output as the base" in sql["error"]["message"]
        assert warm(engine, "--no-prove")[0] == 0


def test_the_base_that_the_adapters_name_is_looked_for_and_told_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(folder / "sql", modules=QUERIES, config={"base_model_name_or_path": str(folder / "base")})
    (folder / "set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: sql, source: ./sql}]\n"
    )
    with Engine() as engine:
        argv = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), "--endpoint", engine.url]
        assert main([*argv, "--engine", "vllm"]) == 0
        assert set(engine.adapters) == {"sql"}
    assert capsys.readouterr().err.count("from the adapter's config") == 1


def test_a_base_that_does_not_repeat_itself_proves_nothing(warm: Warm) -> None:
    with Engine() as engine:
        engine.noisy = True
        code, document = warm(engine)
        assert code == 1
        assert {one["effect"]["proved"] for one in document["servers"][0]["adapters"]} <= {False, None}


def test_a_replica_that_refuses_is_told_in_its_own_words_and_the_others_are_warmed(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_endpoint, "WAIT_S", 1.0)
    with Engine() as one, Engine() as other, Engine(down_for=10**6) as down:
        other.refuses["sql"] = "LoRA rank 4 is greater than max_lora_rank 2."
        code, document = warm([one, other, down])
        assert code == 7
        assert actions(document, 0) == {"sql": "loaded", "chat": "loaded"}
        assert actions(document, 1) == {"sql": "failed", "chat": "loaded"}
        sql = document["servers"][1]["adapters"][0]
        assert "LoRA rank 4 is greater than max_lora_rank 2." in sql["error"]["message"]
        assert "not ready after 1 s" in document["servers"][2]["error"]["message"]
        assert document["servers"][2]["adapters"] == []


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_waiting_says_for_whom_and_why_and_ends_with_ctrl_c(folder: Path, silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not silent:
            listener.close()
        argv = ["warm", "-f", "set.yaml", "--endpoint", url, "--engine", "vllm"]
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell may have it ignored
        )
        code += "from lora_cli.cli.main import run; run()"
        with subprocess.Popen(
            [sys.executable, "-c", code, *argv], cwd=folder, stderr=subprocess.PIPE, text=True
        ) as warm:
            assert warm.stderr is not None
            if not silent:
                assert re.match(f"waiting for {url} for up to (600|599) s: .*refused", warm.stderr.readline())
            with listener.accept()[0] if silent else nullcontext():
                began = time.monotonic()
                warm.send_signal(signal.SIGINT)
                assert warm.wait(30) == 130
                assert time.monotonic() - began < 2


def test_paths_are_the_engines_own_and_a_404_says_so(folder: Path, warm: Warm) -> None:
    with Engine() as engine:
        engine.sees = folder / "cache"
        code, document = warm(engine)
        assert code == 7
        assert "--engine-path" in document["servers"][0]["adapters"][0]["error"]["hint"]
        code, document = warm(engine, "--engine-path", f"{folder / 'cache'}=/adapters")
        assert (code, actions(document)) == (0, {"sql": "loaded", "chat": "loaded"}), json.dumps(document)
        assert engine.adapters["sql"][0].startswith("/adapters/snapshots/sha256/")


def test_what_the_engine_of_that_version_would_not_serve_right_is_not_sent_to_it(folder: Path, warm: Warm) -> None:
    shutil.rmtree(folder / "sql")
    write_adapter(folder / "sql", modules=QUERIES, r=4, config={"use_dora": True})
    with Engine() as engine:
        code, document = warm(engine)
        assert code == 1
        assert [one["name"] for one in document["refused"]] == ["sql"]
        assert set(engine.adapters) == {"chat"}


def test_a_token_is_sent_and_a_wrong_one_is_explained(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(token="sesame") as engine:
        code, document = warm(engine)
        assert code == 7
        hint = document["servers"][0]["adapters"][0]["error"]["hint"]
        assert hint == "set LORA_CLI_API_KEY to the server's token"
        monkeypatch.setenv("LORA_CLI_API_KEY", "wrong")
        code, document = warm(engine)
        assert code == 7
        hint = document["servers"][0]["adapters"][0]["error"]["hint"]
        assert "the server rejects the token" in hint
        assert "wrong" not in hint
        monkeypatch.setenv("LORA_CLI_API_KEY", "sesame")
        assert warm(engine)[0] == 0


@pytest.mark.parametrize(
    ("ranks", "code", "said"),
    [
        ([[0, 1]], 0, ""),
        ([[2, 3]], 0, "it has data-parallel rank 2, 3 alone: the others need an --endpoint, too"),
        ([[0], [1]], 7, "balances several vLLM servers, of which each loads adapters for itself"),
    ],
)
def test_vllm_with_external_or_hybrid_balancing_is_told_apart(
    warm: Warm, ranks: list[list[int]], code: int, said: str
) -> None:
    with Engine() as engine:
        engine.ranks = ranks
        found, document = warm(engine)
        (server,) = document["servers"]
        assert found == code
        assert said in (server["error"]["message"] if code else server["note"])
        assert bool(engine.adapters) == (code == 0)


def test_a_shard_warms_its_part(warm: Warm) -> None:
    with Engine() as engine:
        first = actions(warm(engine, "--shard", "0/2")[1])
        second = actions(warm(engine, "--shard", "1/2")[1])
        assert sorted([*first, *second]) == sorted(NAMES)


def test_the_table_says_what_happened_on_each_replica(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine() as engine:
        words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml")]
        assert main([*words, "--endpoint", f"{engine.url}/v1", "--engine", "vllm"]) == 0
        said = capsys.readouterr().out
        assert f"{engine.url} (vllm 0.32.0)" in said
        assert "1 server: 2 loaded" in said


def test_quiet_prints_only_what_failed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine() as engine:
        words = ["--cache-dir", str(folder / "cache"), "-q", "warm", "-f", str(folder / "set.yaml")]
        argv = [*words, "--endpoint", engine.url, "--engine", "vllm"]
        assert (main(argv), *capsys.readouterr()) == (0, "", "")
        write_adapter(folder / "sql", modules=QUERIES, drop=lambda name: "lora_B" in name)
        assert main(argv) == 1
        lines = capsys.readouterr().out.splitlines()
        assert "sql: failed" in lines
        assert "sql is still served from" in " ".join(" ".join(lines).split())
        assert not any(line.startswith("chat") for line in lines)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--endpoint", "ftp://x", "--engine", "vllm"], "not the address"),
        (["--endpoint", "http://u:p@h:1", "--engine", "vllm"], "not the address"),
        (["--endpoint", "http://h:1/path", "--engine", "vllm"], "not the address"),
        (["--endpoint", "http://h:1", "--engine", "vlm"], "did you mean vllm?"),
        (["--endpoint", "http://h:1", "--engine", "vllm", "--engine-path", "x"], "FROM=TO"),
        (["--endpoint", "http://h:1", "--engine", "vllm", "--serve"], "cannot be used together"),
        (["--endpoint", "http://h:1"], "--engine"),
    ],
)
def test_what_is_no_target_is_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert main(["warm", "-f", str(folder / "set.yaml"), *argv]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_watch_follows_the_manifest_and_an_engine_that_forgot(folder: Path) -> None:
    write_set(folder, "sql")
    with Engine() as engine:
        words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), "--watch", "--prune"]
        argv = [sys.executable, "-m", "lora_cli", *words, "--endpoint", engine.url, "--engine", "vllm"]
        watching = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            _until(lambda: set(engine.adapters) == {"sql"})
            write_set(folder, "chat")
            _until(lambda: set(engine.adapters) == {"chat"})
            engine.adapters.clear()  # as if it was restarted, while somebody mistypes the manifest
            (folder / "set.yaml").write_text("apiVersion: nonsense")
            _until(lambda: set(engine.adapters) == {"chat"})
            write_set(folder, "sql", "chat")
            _until(lambda: set(engine.adapters) == {"sql", "chat"})
        finally:
            watching.send_signal(signal.SIGTERM)
            said, _ = watching.communicate(timeout=20)
    assert watching.returncode == 0
    assert "the last valid version is still used" in said
    assert BASE not in engine.adapters


def test_the_ready_file_is_there_when_every_adapter_was_tried_and_only_then(
    folder: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_endpoint, "WAIT_S", 1.0)
    ready = folder / "ready"
    with Engine() as engine:
        assert warm(engine, "--ready-file", ready)[0] == 0
        assert json.loads(ready.read_text()) == {"pid": None, "served": 2}
        engine.adapters.clear()
        engine.refuses["sql"] = "no"
        assert warm(engine, "--ready-file", ready)[0] == 7
        assert json.loads(ready.read_text()) == {"pid": None, "served": 1}, "one that fails holds nobody up"
    assert warm(engine, "--ready-file", ready)[0] == 7
    assert not ready.exists()


@pytest.mark.slow
def test_the_ready_file_follows_each_look_of_watch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = folder / "ready"
    ready.write_text("of an earlier run")
    with Engine(down_for=10) as engine:
        words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), "--watch"]
        words += ["--ready-file", str(ready), "--endpoint", engine.url, "--engine", "vllm"]
        watching = subprocess.Popen([sys.executable, "-m", "lora_cli", *words], stderr=subprocess.PIPE, text=True)
        try:
            _until(lambda: engine.down_for < 9)
            assert not ready.exists()
            _until(ready.exists)
            assert json.loads(ready.read_text()) == {"pid": watching.pid, "served": 2}
            engine.down_for = 10
            write_set(folder, "sql")
            _until(lambda: not ready.exists())
            _until(ready.exists)
            (folder / "set.yaml").write_text("apiVersion: nonsense")
            time.sleep(3)
            assert ready.exists(), "what is served stays so"
        finally:
            watching.send_signal(signal.SIGTERM)
            watching.communicate(timeout=20)
    assert not ready.exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["<!DOCTYPE HTML>\n<html><title>404</title></html>", '{"detail": "Not Found"}'])
def test_what_is_no_engine_is_said_at_once_without_its_markup(
    page: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Engine() as engine:
        engine.page = page
        began = time.monotonic()
        words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml")]
        assert main([*words, "--endpoint", engine.url, "--engine", "vllm"]) == 7
        assert main(["serve-bench", "--url", engine.url]) == 7
        assert main(["warm", "--status", "--listen", engine.url.removeprefix("http://")]) == 7
        assert time.monotonic() - began < 20
    said = "".join(capsys.readouterr())
    assert "<" not in said.replace("->", "")
    assert "is this an engine?" in said
    assert "is not a lora-cli server" in said


@pytest.mark.slow
def test_watch_ends_when_it_is_told_to_though_an_engine_is_not_ready_yet(folder: Path) -> None:
    with Engine(down_for=10_000) as engine:
        words = [
            "--cache-dir",
            str(folder / "cache"),
            "warm",
            "-f",
            str(folder / "set.yaml"),
            "--watch",
        ]
        argv = [sys.executable, "-m", "lora_cli", *words, "--endpoint", engine.url, "--engine", "vllm"]
        watching = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        _until(lambda: engine.down_for < 9_998)
        watching.send_signal(signal.SIGTERM)
        said, _ = watching.communicate(timeout=20)
    assert watching.returncode == 0, said
    assert "was not ready yet" in " ".join(said.split())


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_server_behind_tls_is_trusted_by_the_systems_certificates_alone(
    folder: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine() as engine, FaultyProxy(engine.url, certificate=CERTIFICATE, raw=True) as outside:
        engine.url = outside.url
        monkeypatch.setattr(warm_endpoint, "WAIT_S", 1.0)
        code, document = warm(engine)
        assert (code, document["servers"][0]["adapters"]) == (7, [])
        assert "CERTIFICATE_VERIFY_FAILED" in document["servers"][0]["error"]["message"]
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        monkeypatch.setattr(warm_endpoint, "WAIT_S", 10.0)
        code, document = warm(engine)
        assert (code, actions(document)) == (0, {"sql": "loaded", "chat": "loaded"}), json.dumps(document)


def test_log_probabilities_that_only_one_answer_has_prove_nothing() -> None:
    base, adapted = (Completion("one", ("one",), logprobs) for logprobs in ((-1.0,), (-1.5, -9.0)))
    server: Any = SimpleNamespace(complete=lambda name, *_: base if name == "base" else adapted)
    assert CanaryProof(server, "base").effect("sql").shift == 0.5
