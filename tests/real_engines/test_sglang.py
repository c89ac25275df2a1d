"""The plugin in SGLang's own server, whose scheduler has no model: each answer names the adapter of its request."""

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lora_cli.cli.main import main
from lora_cli.endpoint.address import Address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.servers import Sglang
from tests.corpus.goods import options
from tests.corpus.peft_judge import write_adapter
from tests.hub_server import Hub
from tests.real_engines.bases import SERVED, save
from tests.real_engines.sglang_server import MAX_LORA_RANK, SglangServer, serving
from tests.real_engines.test_resolver import WEIGHTS, changed, files_of, plugin, write_set
from tests.real_engines.vllm_server import Reply

pytestmark = pytest.mark.engines

LLAMA = SERVED["llama"]
GOOD = ("one", "two", "slow-load")
LOAD = "load_lora_adapter"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sglang")
    save(LLAMA, folder / "base")
    (folder / "base" / "chat_template.jinja").write_text("{% for one in messages %}{{ one.content }}{% endfor %}")
    for number, name in enumerate(GOOD):
        write_adapter(LLAMA, options(LLAMA, {"lora_alpha": 8 + 2 * number}), folder / "made" / name)
    first = folder / "made" / "one"
    poisoned = {name: np.full_like(tensor, np.nan) for name, tensor in load_file(first / WEIGHTS).items()}
    changed(first, folder / "made" / "not-a-number", poisoned)
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[Hub]:
    with Hub() as hub:
        for directory in (folder / "made").iterdir():
            hub.add(f"acme/{directory.name}", files_of(directory))
        yield hub


@pytest.fixture(scope="module")
def server(folder: Path, hub: Hub) -> Iterator[SglangServer]:
    names = [*GOOD, "not-a-number", "gone"]
    write_set(folder, {name: f"hf://acme/{name}" for name in names})
    environment = {**plugin(folder, hub), "LORA_CLI_TIMEOUT": "30s", "LORA_CLI_RESOLVE_TIMEOUT": "8s"}
    with serving(folder / "base", folder, **environment) as running:
        yield running


def ask(server: SglangServer, name: str, **fields: Any) -> Reply:
    model = f"base:{name}" if name else "base"
    return server.post("/v1/completions", {"model": model, "prompt": [1, 2, 3], "max_tokens": 1, **fields})


def text(reply: Reply) -> str:
    assert reply.status == 200, reply
    return str(json.loads(reply.text)["choices"][0]["text"])


def message(reply: Reply) -> str:
    return str(json.loads(reply.text)["message"])


def test_an_unknown_name_is_fetched_validated_and_loaded_by_sglang_itself(folder: Path, server: SglangServer) -> None:
    while (first := ask(server, "one")).status == 503:  # the processes that fetch and validate are started for it
        assert "still being fetched" in message(first)
    path, lora_id = text(first).split()
    assert Path(path).is_relative_to(folder / "cache" / "snapshots")
    assert text(ask(server, "one")).split() == [path, lora_id], "the second request finds it loaded"
    assert server.loaded("one") == [(LOAD, True)]


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("not-a-number", 422, "LC501"),
        ("gone", 404, "gone"),
        ("nobody-has-this", 400, "never been loaded"),
        ("/etc", 400, "never been loaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_served_is_told_by_status_and_message(
    server: SglangServer, name: str, status: int, said: str, *, stream: bool
) -> None:
    reply = ask(server, name, stream=stream)
    assert (reply.status, said in message(reply)) == (status, True), reply
    chat = {"model": f"base:{name}", "messages": [{"role": "user", "content": "t1"}], "stream": stream}
    reply = server.post("/v1/chat/completions", chat)
    assert (reply.status, said in message(reply)) == (status, True), reply
    assert text(ask(server, "")) == "base"
    assert server.loaded(name) == []


def test_the_native_api_and_embedded_lists_of_names(server: SglangServer) -> None:
    asked = {"input_ids": [[1, 2], [3, 4]], "lora_path": ["two", None], "sampling_params": {"max_new_tokens": 1}}
    first, second = json.loads(server.post("/generate", asked).text)
    assert ("snapshots" in first["text"], second["text"]) == (True, "base")
    reply = server.post("/generate", {**asked, "lora_path": ["not-a-number", None]})
    assert (reply.status, "LC501" in reply.text) == (422, True)


def test_first_requests_at_once_make_one_load(server: SglangServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda _: ask(server, "slow-load"), range(20)))
    assert len({text(reply) for reply in replies}) == 1
    assert server.loaded("slow-load") == [(LOAD, True)]


def test_warm_loads_by_path_and_keeps_what_it_loaded(
    folder: Path, server: SglangServer, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = Sglang(Endpoint(Address(port=server.port)))
    for one in endpoint.models():
        if one.parent:
            endpoint.unload(one.name)
    write_set(folder, {"own": str(folder / "made" / "one")}, "own.yaml")
    words = ["--cache-dir", str(folder / "own"), "warm", "-f", str(folder / "own.yaml"), "--format", "json"]
    words += ["--endpoint", f"http://127.0.0.1:{server.port}", "--engine", "sglang", "--no-prove"]
    for action in ("loaded", "kept"):
        code = main([*words, "--max-lora-rank", str(MAX_LORA_RANK)])
        done = json.loads(capsys.readouterr().out)["servers"][0]
        assert (code, done["version"], done["adapters"][0]["action"]) == (0, "0.5.23", action), done
