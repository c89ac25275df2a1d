"""The API of a real server: adapters loaded by name and path, as vLLM's clients do, and what else it tells."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.making import llama_modules, write_adapter, write_base
from tests.warm.running import Running, error_of

QUERIES = llama_modules(["q_proj"])
MANIFEST = """\
apiVersion: lora-cli/v1
kind: AdapterSet
base: base
adapters:
  - {name: a0, source: adapters/a0}
  - {name: kept, source: adapters/a1, keep_loaded: true}
  - {name: broken, source: adapters/broken}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    write_base(folder / "base")
    for number in range(4):
        write_adapter(folder / "adapters" / f"a{number}", modules=QUERIES, r=4, seed=number)
    write_adapter(folder / "adapters" / "broken", modules=QUERIES, drop=lambda name: "lora_B" in name)
    write_adapter(folder / "elsewhere" / "secret", modules=QUERIES)
    (folder / "adapters" / "link").symlink_to(folder / "elsewhere" / "secret")
    (folder / "set.yaml").write_text(MANIFEST)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    """Knows a0, kept and broken, has two slots and three places, and loads what lies under ``adapters``."""
    limits = ["--max-loras", 2, "--max-cpu-loras", 3, "--root", folder / "adapters"]
    with Running(folder, "-f", folder / "set.yaml", *limits) as running:
        yield running.until_ready()


def test_what_it_was_started_with_is_proved_or_named_with_its_rule_before_anybody_asks(server: Running) -> None:
    assert server.ask("GET", "/health").json() == {"status": "ok"}
    assert server.ask("GET", "/ready").status_code == 200
    a0, broken = server.adapter("a0"), server.adapter("broken")
    assert (a0["state"], a0["rank"], a0["applied"], server.adapter("kept")["keep_loaded"]) == ("ready", 4, "2/2", True)
    assert a0["worst_error"] < 1e-5
    assert (broken["state"], broken["rule"]) == ("failed", "LC302")
    assert broken["retry_in_s"] >= 0
    models = server.ask("GET", "/v1/models").json()["data"]
    assert {model["id"]: model["parent"] for model in models} == {"base": None, "a0": "base", "kept": "base"}
    assert "ready: 2 of 3 adapters loaded and proved" in server.said()
    assert "broken: failed at validate: LC302" in server.said()


def test_an_adapter_is_loaded_listed_and_unloaded_as_vllm_does(server: Running) -> None:
    loaded = server.load("second", "a2")
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'second' added successfully.")
    models = {model["id"]: model for model in server.ask("GET", "/v1/models").json()["data"]}
    assert (models["second"]["parent"], models["second"]["object"]) == ("base", "model")
    assert server.load("second", "a2").status_code == 200, "telling it twice changes nothing"
    status, message = error_of(server.load("second", "a3"))
    assert (status, "load_inplace" in message) == (400, True)
    digest = server.adapter("second")["digest"]
    assert server.load("second", "a3", load_inplace=True).status_code == 200
    replaced = server.adapter("second")["digest"]
    assert replaced not in {digest, ""}
    status, message = error_of(server.load("second", "broken", load_inplace=True))
    assert (status, "LC302" in message, server.adapter("second")["digest"]) == (422, True, replaced)
    before = [one["name"] for one in server.status()["adapters"]]
    assert error_of(server.load("mine", "broken"))[0] == 422
    assert [one["name"] for one in server.status()["adapters"]] == before, "what fails is not registered"
    gone = server.post("/v1/unload_lora_adapter", lora_name="second")
    assert gone.text == "Success: LoRA adapter 'second' removed successfully."
    assert error_of(server.post("/v1/unload_lora_adapter", lora_name="second"))[0] == 404


def test_a_path_outside_the_roots_is_refused_however_it_is_written(server: Running, folder: Path) -> None:
    outside = folder / "elsewhere" / "secret"
    for path in (outside, "../elsewhere/secret", f"file://{outside}", "link", folder / "adapters", ".", "/"):
        status, message = error_of(server.load("outside", path))
        assert (status, "not below a folder" in message) == (422, True), path
    assert error_of(server.load("outside", "nowhere"))[0] == 404
    assert error_of(server.load("outside", "a" * 300))[0] == 404
    assert error_of(server.load("outside", "hf://acme/sql"))[0] == 422
    assert "outside" not in {one["name"] for one in server.status()["adapters"]}


def test_one_of_the_manifest_may_be_replaced_and_stays_pinned(server: Running) -> None:
    assert server.load("kept", server.adapter("kept")["source"]).status_code == 200, "as warm --endpoint does it"
    assert server.load("kept", "a3", load_inplace=True).status_code == 200
    for number in range(4):
        assert server.load(f"one{number}", f"a{number}").status_code == 200
    assert (server.adapter("kept")["keep_loaded"], server.adapter("kept")["tier"]) == (True, "gpu")
    holdings = server.status()["tiers"]
    assert (holdings["gpu"]["adapters"], holdings["cpu"]["adapters"]) == (2, 3)
    for number in range(4):
        assert server.post("/v1/unload_lora_adapter", lora_name=f"one{number}").status_code == 200


def test_those_who_ask_for_one_adapter_at_a_time_share_one_load(server: Running) -> None:
    before = metrics(server)["lora_cli_loads_total"]
    with ThreadPoolExecutor(16) as clients:
        codes = list(clients.map(lambda _: server.load("shared", "a3").status_code, range(16)))
    assert codes == [200] * 16
    assert metrics(server)["lora_cli_loads_total"] == before + 1
    assert server.post("/v1/unload_lora_adapter", lora_name="shared").status_code == 200


def metrics(server: Running) -> dict[str, float]:
    lines = (line for line in server.ask("GET", "/metrics").text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_name_each_failing_adapter_and_count_loads_by_stage(server: Running) -> None:
    found = metrics(server)
    assert found["lora_cli_ready"] == found["lora_cli_starts_total"] == 1
    assert found['lora_cli_adapter_failed{adapter="broken",rule="LC302"}'] == 1
    assert found['lora_cli_load_failures_total{stage="validate"}'] >= 1
    assert 1 <= found['lora_cli_resident_adapters{tier="gpu"}'] <= 2
    assert found['lora_cli_load_seconds_total{stage="proof"}'] > 0
    assert not any("vllm" in name or "None" in name for name in found)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"lora_name": "x"}, "lora_path: Field required"),
        ({"lora_name": "../x", "lora_path": "a0"}, "lora_name"),
        ({"lora_name": "x", "lora_path": "a0", "lora_pth": 1}, "lora_pth: Extra inputs are not permitted"),
        ({"lora_name": "base", "lora_path": "a0"}, "the base"),
    ],
)
def test_what_is_no_request_is_answered_with_400_and_why(server: Running, body: dict[str, Any], said: str) -> None:
    """What else it may be: tests/attacks/test_strange_requests.py."""
    status, message = error_of(server.post("/v1/load_lora_adapter", **body))
    assert (status, said in message) == (400, True), message


def test_other_bodies_paths_methods_and_hosts_have_their_own_answers(server: Running) -> None:
    at, json = f"http://localhost:{server.port}", {"content-type": "application/json"}
    with httpx2.Client(timeout=30) as client:
        plain = client.post(f"{at}/v1/load_lora_adapter", content=b"{}")
        assert (plain.status_code, "content-type: application/json" in plain.text) == (415, True)
        huge = client.post(f"{at}/v1/load_lora_adapter", content=b"x" * (2 << 20), headers=json)
        assert huge.status_code == 413
        assert client.get(f"{at}/v1/load_lora_adapter").status_code == 405
        assert error_of(client.get(f"{at}/v1/nothing"))[0] == 404
        strange = client.get(f"{at}/v1/models", headers={"host": "evil.example"})
        assert strange.status_code == 421, "a page of another host must not reach it by a name of its own"


def test_without_a_whole_model_there_are_no_completions(server: Running) -> None:
    status, message = error_of(server.post("/v1/completions", model="a0", prompt="hello"))
    assert (status, "--forward model" in message) == (400, True)


def test_a_process_that_is_killed_comes_back_with_its_adapters_and_those_of_clients(server: Running) -> None:
    assert server.load("client", "a2").status_code == 200
    before = server.status()
    os.kill(before["pid"], signal.SIGKILL)
    assert server.ask("GET", "/health").status_code == 200, "it waits in the socket"
    server.until(lambda: server.status()["ready"])
    now = server.status()
    assert (now["starts"], now["pid"] != before["pid"]) == (before["starts"] + 1, True)
    assert "the server's process was killed by SIGKILL" in server.said()
    states = {one["name"]: one["state"] for one in now["adapters"]}
    # What memory has no place for waits for its first request.
    assert states == {"a0": "ready", "kept": "ready", "broken": "failed", "client": states["client"]}
    assert server.load("client", server.adapter("client")["source"]).status_code == 200
