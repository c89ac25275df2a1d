"""``warm --endpoint`` on a real vLLM: load, keep, replace, prune, and what does nothing though it was answered 200."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from lora_cli.cli.main import main
from lora_cli.endpoint.address import Address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.reconcile import DesiredAdapter, ReconcileOptions, reconcile
from lora_cli.endpoint.servers import Vllm
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.real_engines.agreement import TOLERANCE, distance
from tests.real_engines.bases import SERVED, VOCABULARY, save
from tests.real_engines.test_published import LONG, answered
from tests.real_engines.vllm_server import PROMPTS, Server, meant, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoints")
    save(LLAMA, folder / "base")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    more = ("--max-model-len", "512", "--max-cpu-loras", "4")
    with serving(folder / "base", folder / "vllm.log", *more) as running:
        yield running


def adapter(folder: Path, name: str, **config: Any) -> Any:
    """Writes one under ``name``, in place of what was there, and gives the log-probabilities that PEFT means by it."""
    shutil.rmtree(folder / name, ignore_errors=True)
    return meant(write_adapter(LLAMA, options(LLAMA, config), folder / name))


def write_set(folder: Path, *names: str) -> None:
    entries = "".join(f"  - {{name: {name}, source: ./{name}}}\n" for name in names)
    (folder / "set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}")


def warm(
    folder: Path, server: Server, capsys: pytest.CaptureFixture[str], *argv: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    words = ["--cache-dir", str(folder / "cache"), "warm", "-f", str(folder / "set.yaml"), "--format", "json"]
    code = main([*words, "--endpoint", f"http://127.0.0.1:{server.port}", "--engine", "vllm", *argv])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    done = document["servers"][0]["adapters"]
    return code, {one["name"]: one["action"] for one in done}, document


def test_adapters_are_loaded_kept_replaced_and_pruned(
    folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    first, chat = adapter(folder, "sql"), adapter(folder, "chat", lora_alpha=24)
    write_set(folder, "sql", "chat")
    code, actions, document = warm(folder, server, capsys)
    assert (code, actions) == (0, {"sql": "loaded", "chat": "loaded"}), json.dumps(document)
    assert document["servers"][0]["version"].startswith("0.32")
    assert distance(answered(server, "sql"), first) <= TOLERANCE
    assert distance(answered(server, "chat"), chat) <= TOLERANCE
    old = answered(server, "sql", LONG)
    assert warm(folder, server, capsys)[:2] == (0, {"sql": "kept", "chat": "kept"})

    second = adapter(folder, "sql", lora_alpha=40)
    code, actions, document = warm(folder, server, capsys)
    assert (code, actions) == (0, {"sql": "replaced", "chat": "kept"}), json.dumps(document)
    assert distance(answered(server, "sql"), second) <= TOLERANCE
    anew = answered(server, "sql", LONG)
    assert distance(anew, old) > TOLERANCE
    shutil.copytree(folder / "sql", folder / "sql-2")
    write_set(folder, "sql", "sql-2")
    assert warm(folder, server, capsys, "--prune")[:2] == (0, {"sql": "kept", "sql-2": "loaded", "chat": "pruned"})
    assert distance(anew, answered(server, "sql-2", LONG)) <= TOLERANCE, "nothing of the old one was in the cache"
    assert server.answer("chat", PROMPTS, VOCABULARY).status == 404


def test_an_adapter_that_does_nothing_is_caught_though_vllm_answered_200(folder: Path, server: Server) -> None:
    adapter(folder, "nothing")
    weights = folder / "nothing" / "adapter_model.safetensors"
    save_file({name: one * ("lora_B" not in name) for name, one in load_file(weights).items()}, weights)
    endpoint = Endpoint(Address(port=server.port))
    wanted = [DesiredAdapter("nothing", "", str(folder / "nothing"))]
    done, _ = reconcile(Vllm(endpoint), wanted, ReconcileOptions(prune=None, prove=True, unload=False))
    assert server.unload("nothing").status == 200, "vLLM had loaded it"
    assert done[0].error is not None
    assert (done[0].action, done[0].error.exit_code) == ("loaded", 1)
    assert "gives the same output as the base" in done[0].error.message


def test_what_vllm_refuses_is_told_in_its_own_words(
    folder: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = Endpoint(Address(port=server.port))
    wanted = [DesiredAdapter("gone", "", str(folder / "gone"))]
    done, _ = reconcile(Vllm(endpoint), wanted, ReconcileOptions(prune=None, prove=True, unload=False))
    assert done[0].error is not None
    assert done[0].error.exit_code == 7
    assert "--engine-path" in done[0].error.hint


def test_serve_bench_tells_cold_requests_from_hot_ones(folder: Path, server: Server) -> None:
    names = ("first", "second")
    for name in names:
        adapter(folder, name)
        assert server.load(name, folder / name).status == 200
    words = ["serve-bench", "--url", f"http://127.0.0.1:{server.port}", *names, "--num-prompts", "40"]
    words += ["--popularity", "uniform", "--input-len", "16", "--output-len", "8"]
    assert main([*words, "--format", "json", "-o", str(folder / "bench.json")]) == 0
    metrics = json.loads((folder / "bench.json").read_text())["metrics"]
    assert metrics["completed"] == 40
    assert metrics["cold_requests"] >= len(names)
    assert metrics["cold_requests"] + metrics["hot_requests"] <= 40
