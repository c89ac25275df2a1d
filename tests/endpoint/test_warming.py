"""``warm --endpoint``: running engines are made to serve what a manifest says, and each adapter proves itself there."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli import warm_endpoint
from lora_cli.cli.main import main
from tests.endpoint.engine import Engine
from tests.faulty_proxy import FaultyProxy
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.sources.raw_servers import CERTIFICATE

QUERIES = llama_modules(["q_proj", "k_proj", "v_proj"])
NAMES = ("sql", "chat")

Warm = Callable[..., tuple[int, dict[str, Any]]]


def write_set(folder: Path, *names: str, sources: Sequence[str] = ()) -> None:
    asked = zip(names, sources or [f"./{name}" for name in names], strict=True)
    entries = "".join(f"  - {{name: {name}, source: {source}}}\n" for name, source in asked)
    text = f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries or '  []'}"
    temporary = folder / "set.tmp"
    temporary.write_text(text)
    temporary.replace(folder / "set.yaml")


def retrain(folder: Path, **how: Any) -> None:
    """Another adapter in place of ``sql``."""
    shutil.rmtree(folder / "sql")
    write_adapter(folder / "sql", modules=QUERIES, **{"r": 4, "lora_alpha": 32, "seed": 9, **how})


def actions(document: dict[str, Any], server: int = 0) -> dict[str, str]:
    return {one["name"]: one["action"] for one in document["servers"][server]["adapters"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base_config(tmp_path / "base")
    for number, name in enumerate(NAMES):
        write_adapter(tmp_path / name, modules=QUERIES, r=4, lora_alpha=8 + number, seed=number)
    write_set(tmp_path, *NAMES)
    return tmp_path


@pytest.fixture
def warm(folder: Path, capsys: pytest.CaptureFixture[str]) -> Warm:
    """Run ``warm --endpoint`` on the manifest; gives the exit code and the document."""

    def run(engine: Engine | list[Engine], *argv: object, kind: str = "") -> tuple[int, dict[str, Any]]:
        engines = engine if isinstance(engine, list) else [engine]
        at = [word for one in engines for word in ("--endpoint", one.url)]
        words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), *at]
        code = main([*words, "--engine", kind or engines[0].kind, "--format", "json", *map(str, argv)])
        return code, json.loads(capsys.readouterr().out)

    return run


def outcome(document: dict[str, Any], name: str = "sql") -> dict[str, Any]:
    found: list[dict[str, Any]] = document["servers"][0]["adapters"]
    return next(one for one in found if one["name"] == name)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_what_is_missing_is_loaded_and_proved_and_a_second_time_nothing_is_done(warm: Warm, kind: str) -> None:
    with Engine(kind, version="0.32.0" if kind == "vllm" else "0.5.23", down_for=2) as engine:
        code, document = warm(engine)
        assert (code, document["schema"]) == (0, "lora_cli/endpoints/1")
        assert actions(document) == {"sql": "loaded", "chat": "loaded"}
        effects = [one["effect"] for one in document["servers"][0]["adapters"]]
        assert all(one["proved"] and one["how"].startswith("log-probabilities by 0.") for one in effects)
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
        retrain(folder)
        engine.said.clear()
        code, document = warm(engine, *(["--allow-unload"] if kind == "sglang" else []))
        assert (code, actions(document)) == (0, {"sql": "replaced", "chat": "kept"})
        assert ("vllm#54839" in document["servers"][0]["note"]) == (kind == "vllm")
        assert engine.adapters["sql"][0] != old[0]
        assert set(engine.adapters) == set(NAMES), "the candidate is gone"
        assert engine.said[0][1].startswith("lora-cli-candidate-")


def test_what_the_manifest_pins_is_pinned_when_it_is_loaded_and_when_it_is_replaced(folder: Path, warm: Warm) -> None:
    manifest = folder / "set.yaml"
    manifest.write_text(manifest.read_text().replace("source: ./sql}", "source: ./sql, keep_loaded: true}"))
    with Engine("sglang", version="0.5.23") as engine, Engine("vllm") as vllm:
        code, document = warm(engine)
        assert (code, engine.pinned, document["servers"][0]["note"]) == (0, {"sql"}, "")
        warm(vllm)
        retrain(folder)
        code, document = warm(engine, "--allow-unload")
        assert (code, actions(document)["sql"], engine.pinned) == (0, "replaced", {"sql"})
        assert re.fullmatch(r"vLLM keeps .*; keep_loaded has no effect.*", warm(vllm)[1]["servers"][0]["note"])


def test_sglang_unloads_nothing_unless_it_is_told_to(folder: Path, warm: Warm) -> None:
    with Engine("sglang", version="0.5.23") as engine:
        warm(engine)
        engine.said.clear()
        before = dict(engine.adapters)
        retrain(folder)
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


def test_a_changed_adapter_with_which_the_engine_does_nothing_does_not_take_the_name(folder: Path, warm: Warm) -> None:
    with Engine() as engine:
        warm(engine)
        old = engine.adapters["sql"]
        retrain(folder)
        engine.idle = True
        code, document = warm(engine)
        assert (code, actions(document)) == (1, {"sql": "failed", "chat": "kept"})
        assert (engine.adapters["sql"], set(engine.adapters)) == (old, set(NAMES))
        assert f"sql is still served from {old[0]}: the new version" in outcome(document)["error"]["message"]


def test_an_adapter_that_changes_nothing_is_named_though_the_engine_said_200(warm: Warm) -> None:
    with Engine() as engine:
        warm(engine)
        engine.adapters["sql"] = (engine.adapters["sql"][0], 0.0)
        code, document = warm(engine)
        assert code == 1
        assert outcome(document)["effect"]["proved"] is False
        assert "sql gives the same output as the base" in outcome(document)["error"]["message"]
        assert warm(engine, "--no-prove")[0] == 0


def test_a_base_that_does_not_repeat_itself_proves_nothing(warm: Warm) -> None:
    with Engine() as engine:
        engine.noisy = True
        code, document = warm(engine)
        assert code == 1
        assert {one["effect"]["proved"] for one in document["servers"][0]["adapters"]} <= {False, None}


def test_a_replica_that_refuses_is_told_in_its_own_words_and_the_others_are_warmed(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr("lora_cli.cli.output.write_termination_log", left.append)
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
        assert re.fullmatch(r"http\S+ is not ready after 1 s: .* responded with 503\nsql: .*max_lora_rank 2.", left[0])


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
def test_waiting_says_for_whom_and_why_and_ends_with_ctrl_c(folder: Path, silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not silent:
            listener.close()
        # A shell may have the signal ignored.
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "from lora_cli.cli.main import run; run()"
        argv = [sys.executable, "-c", code, "warm", "-f", "set.yaml", "--endpoint", url, "--engine", "vllm"]
        with subprocess.Popen(argv, cwd=folder, stderr=subprocess.PIPE, text=True) as warm:
            assert warm.stderr is not None
            if not silent:
                assert re.match(f"waiting for {url} for up to (600|599) s: .*refused", warm.stderr.readline())
            with listener.accept()[0] if silent else nullcontext():
                warm.send_signal(signal.SIGINT)
                assert warm.wait(30) == 130


def test_paths_are_the_engines_own_and_a_404_says_so(folder: Path, warm: Warm) -> None:
    with Engine() as engine:
        engine.fixed = True
        code, document = warm(engine)
        assert code == 7
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in document["servers"][0]["adapters"][0]["error"]["hint"]
        engine.fixed, engine.sees = False, folder / "cache"
        code, document = warm(engine)
        assert code == 7
        assert "--engine-path" in document["servers"][0]["adapters"][0]["error"]["hint"]
        code, document = warm(engine, "--engine-path", f"{folder / 'cache'}=/adapters")
        assert (code, actions(document)) == (0, {"sql": "loaded", "chat": "loaded"}), json.dumps(document)
        assert engine.adapters["sql"][0].startswith("/adapters/snapshots/sha256/")


def test_what_the_engine_of_that_version_would_not_serve_right_is_not_sent_to_it(folder: Path, warm: Warm) -> None:
    retrain(folder, config={"use_dora": True})
    with Engine() as engine:
        code, document = warm(engine)
        assert code == 1
        assert [one["name"] for one in document["refused"]] == ["sql"]
        assert set(engine.adapters) == {"chat"}


def test_a_token_is_sent_and_a_wrong_one_is_explained(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(token="sesame") as engine:
        hints = ["set LORA_CLI_API_KEY to the server's token", "the server rejects the token: check LORA_CLI_API_KEY"]
        for token, hint in zip(("", "wrong"), hints, strict=True):
            monkeypatch.setenv("LORA_CLI_API_KEY", token)
            code, document = warm(engine)
            assert (code, document["servers"][0]["adapters"][0]["error"]["hint"]) == (7, hint)
        monkeypatch.setenv("LORA_CLI_API_KEY", "sesame")
        assert warm(engine)[0] == 0


@pytest.mark.parametrize(
    ("root", "base", "told"),
    [
        *[("acme/other", "acme/tiny", True), ("Acme/Tiny@main", "acme/tiny", False)],
        *[("/models/other", "acme/tiny", False), ("other", "acme/tiny", False), ("acme/other", "./base", True)],
    ],
)
def test_an_engine_with_another_base_is_told(
    root: str, base: str, told: bool, folder: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, config = folder / "set.yaml", folder / "base" / "config.json"
    manifest.write_text(manifest.read_text().replace("./base", base))
    config.write_text(json.dumps({**json.loads(config.read_text()), "_name_or_path": "acme/tiny"}))
    with Hub() as hub, Engine() as engine:
        hub.add("acme/tiny", folder / "base")
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        engine.root = root
        code, document = warm(engine)
    assert (code, bool(document["servers"][0]["note"])) == (0, told)
    assert not told or document["servers"][0]["note"] == f"it serves {root}, but the base of the adapters is acme/tiny"


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


def test_prune_unloads_what_is_not_named_and_only_then(folder: Path, warm: Warm) -> None:
    with Engine() as engine:
        warm(engine)
        write_set(folder, "chat")
        assert actions(warm(engine)[1]) == {"chat": "kept"}
        assert set(engine.adapters) == {"sql", "chat"}
        assert actions(warm(engine, "--prune")[1]) == {"chat": "kept", "sql": "pruned"}
        assert set(engine.adapters) == {"chat"}


@pytest.mark.parametrize(("why", "exit_code"), [("refused", 1), ("unreachable", 4), ("gone", 3)])
def test_prune_leaves_what_the_manifest_has_though_this_machine_cannot_have_it(
    folder: Path,
    warm: Warm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    why: str,
    exit_code: int,
) -> None:
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    with Engine() as engine:
        warm(engine)
        if why == "refused":
            (folder / "sql" / "adapter_model.safetensors").write_bytes(b"broken")
        else:
            source = "http://127.0.0.1:9/sql/" if why == "unreachable" else "./nowhere"
            write_set(folder, *NAMES, sources=[source, "./chat"])
        code, document = warm(engine, "--prune")
        assert (code, actions(document)) == (exit_code, {"chat": "kept", "sql": "kept"})
        assert [one["name"] for one in document["refused"]] == ["sql"]
        assert "sql was refused or not fetched, and is still served from" in outcome(document)["error"]["message"]
        assert set(engine.adapters) == {"sql", "chat"}
        main(["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), "--endpoint", engine.url])
        assert "1 server: 1 unchanged, 1 failed" in capsys.readouterr().out


def test_prune_is_by_the_whole_manifest_for_a_part_of_it_too(warm: Warm) -> None:
    with Engine() as engine:
        parts = [actions(warm(engine, "--shard", f"{part}/2")[1]) for part in range(2)]
        assert sorted([*parts[0], *parts[1]]) == sorted(NAMES)
        for part in (["--shard", "0/2"], ["--shard", "1/2"], ["sql"]):
            engine.adapters["other"] = engine.adapters["sql"]
            assert warm(engine, "--prune", *part)[0] == 0
            assert set(engine.adapters) == {"sql", "chat"}


@pytest.mark.parametrize(("kind", "code"), [("vllm", 0), ("sglang", 0), ("other", 7)])
def test_m21_the_engine_at_an_endpoint_is_detected(
    kind: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Engine("sglang" if kind == "other" else kind, down_for=1) as engine:
        engine.owner = kind
        assert main(["warm", "-f", str(folder / "set.yaml"), "--endpoint", engine.url]) == code
        assert set(engine.adapters) == ({*NAMES} if code == 0 else set())
    assert ("does not say which engine it is" in capsys.readouterr().err) == (kind == "other")


NO_ADDRESSES = ("http://u:p@h:1", "http://h:1/path", "http://[::1", "http://h:99999", "http://x\udcff", "ftp://x")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        *((["--endpoint", text, "--engine", "vllm"], "is not the address of a server") for text in NO_ADDRESSES),
        (["--endpoint", "http://h:1", "--engine", "vlm"], "did you mean vllm?"),
        (["--endpoint", "http://h:1", "--engine", "vllm", "--engine-path", "x"], "FROM=TO"),
        (["--endpoint", "http://h:1", "--engine", "vllm", "--serve"], "cannot be used together"),
    ],
)
def test_what_is_no_target_is_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr("lora_cli.cli.main.write_termination_log", left.append)
    assert main(["warm", "-f", str(folder / "set.yaml"), *argv]) == 2
    assert all(said in text for text in (capsys.readouterr().err, *left, left[0]))


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


@contextmanager
def watching(folder: Path, engine: Engine) -> "Iterator[subprocess.Popen[str]]":
    """``warm --watch`` on the manifest, ended by SIGTERM; what it says is in the file ``log``."""
    words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), "--watch", "--prune"]
    words += ["--ready-file", str(folder / "ready"), "--endpoint", engine.url, "--engine", "vllm"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "lora_cli", *words], stdout=log, stderr=log, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not (folder / "ready").exists()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_watch_follows_the_manifest_and_an_engine_that_forgot(folder: Path) -> None:
    ready = folder / "ready"
    ready.write_text("of an earlier run")
    with Engine(down_for=10) as engine, watching(folder, engine) as process:
        until(lambda: engine.down_for < 9)
        assert not ready.exists()
        until(ready.exists)
        assert json.loads(ready.read_text()) == {"pid": process.pid, "served": 2}
        engine.down_for = 10
        write_set(folder, "sql")
        until(lambda: not ready.exists())
        until(lambda: set(engine.adapters) == {"sql"} and ready.exists())
        engine.adapters.clear()  # as if it was restarted, while somebody mistypes the manifest
        (folder / "set.yaml").write_text("apiVersion: nonsense")
        until(lambda: set(engine.adapters) == {"sql"})
        assert ready.exists(), "what is served stays so"
        write_set(folder, "sql", "chat")
        until(lambda: set(engine.adapters) == {"sql", "chat"})
    assert "the last valid version is still used" in (folder / "log").read_text()


@pytest.mark.slow
def test_watch_ends_when_it_is_told_to_though_an_engine_is_not_ready_yet(folder: Path) -> None:
    with Engine(down_for=10_000) as engine, watching(folder, engine):
        until(lambda: engine.down_for < 9_998)
    assert "was not ready yet" in " ".join((folder / "log").read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize("page", ["<!DOCTYPE HTML>\n<html><title>404</title></html>", '{"detail": "Not Found"}'])
@pytest.mark.parametrize("status", [400, 404])
def test_what_is_no_engine_is_said_at_once_without_its_markup(
    page: str, status: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Engine() as engine:
        engine.page = status, page
        words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml")]
        assert main([*words, "--endpoint", engine.url, "--engine", "vllm"]) == 7
        assert main(["serve-bench", "--url", engine.url]) == 7
        assert main(["warm", "--status", "--listen", engine.url.removeprefix("http://")]) == 7
    said = "".join(capsys.readouterr())
    assert "<" not in said.replace("->", "")
    assert "is this an engine?" in said
    assert ("is not a lora-cli server" in said) == (status == 404)


def test_a_server_behind_tls_is_trusted_by_the_systems_certificates_alone(
    folder: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine() as engine, FaultyProxy(engine.url, certificate=CERTIFICATE, raw=True) as outside:
        engine.url = outside.url
        code, document = warm(engine)  # at once: the limit of the test's time is below WAIT_S
        assert (code, document["servers"][0]["adapters"]) == (7, [])
        assert "CERTIFICATE_VERIFY_FAILED" in document["servers"][0]["error"]["message"]
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        monkeypatch.setattr(warm_endpoint, "WAIT_S", 10.0)
        code, document = warm(engine)
        assert (code, actions(document)) == (0, {"sql": "loaded", "chat": "loaded"}), json.dumps(document)
