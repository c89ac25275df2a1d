"""A real vLLM with adapters of ``warm --endpoint``, and of ``fetch --publish`` through its own filesystem resolver."""

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
from tests.real_engines.vllm_server import PROMPTS, Server, meant, serving

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
LONG = [[1 + (7 * place) % (VOCABULARY - 1) for place in range(300)]]
"""A prompt of more tokens than a block of the KV cache holds: what was computed for it is kept."""


def publish(adapter: str, name: str, served_as: str) -> None:
    """Publishes the folder ``adapter`` as ``name``, with the name that the base is served as."""
    shutil.rmtree(name, ignore_errors=True)
    shutil.copytree(adapter, name)
    config = Path(name, "adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": served_as}))
    assert main(["fetch", f"./{name}", "--publish", "served"]) == 0


def test_vllm_serves_by_name_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version is another name: vLLM knows blocks of its KV cache by the adapter's name and path."""
    monkeypatch.chdir(tmp_path)
    base = save(LLAMA, tmp_path / "base")
    first = meant(write_adapter(LLAMA, options(LLAMA, {}), Path("first")))
    second = meant(write_adapter(LLAMA, options(LLAMA, {"lora_alpha": 30}), Path("second")))
    publish("first", "sql", str(base))
    publish("first", "elsewhere", "acme/another-base")

    resolver = {
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(Path("served").resolve()),
    }
    with serving(base, Path("vllm.log"), **resolver) as server:
        assert distance(server.answered("sql"), first) <= TOLERANCE
        assert server.answer("elsewhere", PROMPTS).status == 404
        assert server.answer("nobody", PROMPTS).status == 404

        publish("second", "sql", str(base))
        publish("second", "sql-2", str(base))
        assert distance(server.answered("sql"), first) <= TOLERANCE
        assert distance(server.answered("sql-2"), second) <= TOLERANCE
        assert server.unload("sql").status == 200
        assert distance(server.answered("sql"), second) <= TOLERANCE


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
    assert distance(server.answered("sql"), first) <= TOLERANCE
    assert distance(server.answered("chat"), chat) <= TOLERANCE
    old = server.answered("sql", LONG)
    assert warm(folder, server, capsys)[:2] == (0, {"sql": "kept", "chat": "kept"})

    second = adapter(folder, "sql", lora_alpha=40)
    code, actions, document = warm(folder, server, capsys)
    assert (code, actions) == (0, {"sql": "replaced", "chat": "kept"}), json.dumps(document)
    assert distance(server.answered("sql"), second) <= TOLERANCE
    anew = server.answered("sql", LONG)
    assert distance(anew, old) > TOLERANCE
    shutil.copytree(folder / "sql", folder / "sql-2")
    write_set(folder, "sql", "sql-2")
    assert warm(folder, server, capsys, "--prune")[:2] == (0, {"sql": "kept", "sql-2": "loaded", "chat": "pruned"})
    assert distance(anew, server.answered("sql-2", LONG)) <= TOLERANCE, "nothing of the old one was in the cache"
    assert server.answer("chat", PROMPTS).status == 404


def test_what_was_answered_200_and_does_nothing_is_caught_and_a_refusal_is_told(folder: Path, server: Server) -> None:
    adapter(folder, "nothing")
    weights = folder / "nothing" / "adapter_model.safetensors"
    save_file({name: one * ("lora_B" not in name) for name, one in load_file(weights).items()}, weights)
    wanted = [DesiredAdapter(name, "", str(folder / name)) for name in ("nothing", "gone")]
    options = ReconcileOptions(prune=None, prove=True, unload=False)
    (nothing, gone), _ = reconcile(Vllm(Endpoint(Address(port=server.port))), wanted, options)
    assert server.unload("nothing").status == 200, "vLLM had loaded it"
    assert nothing.error is not None
    assert gone.error is not None
    assert (nothing.action, nothing.error.exit_code, gone.error.exit_code) == ("loaded", 1, 7)
    assert "gives the same output as the base" in nothing.error.message
    assert "--engine-path" in gone.error.hint


def test_serve_bench_tells_cold_requests_from_hot_ones(folder: Path, server: Server) -> None:
    names = ("first", "second")
    for name in names:
        adapter(folder, name)
        assert server.load(name, folder / name).status == 200
    words = ["serve-bench", "--url", f"http://127.0.0.1:{server.port}", *names, "--num-prompts", "40"]
    words += ["--popularity", "uniform", "--input-len", "16", "--output-len", "8"]
    assert main([*words, "--format", f"json={folder}/bench.json"]) == 0
    metrics = json.loads((folder / "bench.json").read_text())["metrics"]
    assert metrics["completed"] == 40
    assert metrics["cold_requests"] >= len(names)
    assert metrics["cold_requests"] + metrics["hot_requests"] <= 40
