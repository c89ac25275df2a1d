"""The API of a real server: adapters loaded by name and path, as vLLM's clients do, and what else it tells."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lora_cli.cli.main import main
from tests.making import llama_modules, write_adapter, write_base
from tests.warm.running import Running, error_of

pytestmark = pytest.mark.slow

QUERIES = llama_modules(["q_proj"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    write_base(folder / "base")
    for number in range(4):
        write_adapter(folder / "adapters" / f"a{number}", modules=QUERIES, r=4, seed=number)
    write_adapter(folder / "adapters" / "broken", modules=QUERIES, drop=lambda name: "lora_B" in name)
    write_adapter(folder / "elsewhere" / "secret", modules=QUERIES)
    (folder / "adapters" / "link").symlink_to(folder / "elsewhere" / "secret")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    """Knows a0 and a1, has two slots and room for three in memory, and loads what lies under ``adapters``."""
    known = [folder / "adapters" / name for name in ("a0", "a1")]
    limits = ["--max-loras", 2, "--max-cpu-loras", 3, "--root", folder / "adapters"]
    with Running(folder, *known, "--base", folder / "base", *limits) as running:
        yield running.until_ready()


def test_what_it_was_started_with_is_proved_before_anybody_asks(server: Running) -> None:
    assert server.ask("GET", "/health").json() == {"status": "ok"}
    assert server.ask("GET", "/ready").status_code == 200
    adapter = server.adapter("a0")
    assert (adapter["proved"], adapter["rank"], adapter["error"]) == (True, 4, "")
    assert adapter["worst_error"] < 1e-5
    probed = server.probe("a0")
    assert (probed.status_code, probed.headers["x-lora-tier"]) == (200, "gpu")
    assert float(probed.headers["x-lora-load-ms"]) < 1000


def test_an_adapter_is_loaded_listed_and_unloaded_as_vllm_does(server: Running) -> None:
    loaded = server.load("second", "a2")
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'second' added successfully.")
    models = server.ask("GET", "/v1/models").json()["data"]
    assert [model["id"] for model in models][:1] == ["base"]
    second = next(model for model in models if model["id"] == "second")
    assert (second["parent"], second["object"]) == ("base", "model")
    again = server.load("second", "a2")
    assert again.status_code == 200, "telling it twice changes nothing"
    other = server.load("second", "a3")
    assert error_of(other)[0] == 400
    assert "load_inplace" in error_of(other)[1]
    digest = server.adapter("second")["digest"]
    assert server.load("second", "a3", load_inplace=True).status_code == 200
    assert server.adapter("second")["digest"] not in {digest, ""}
    gone = server.post("/v1/unload_lora_adapter", lora_name="second")
    assert gone.text == "Success: LoRA adapter 'second' removed successfully."
    assert error_of(server.post("/v1/unload_lora_adapter", lora_name="second"))[0] == 404
    assert error_of(server.probe("second"))[0] == 404


def test_a_path_outside_the_roots_is_refused_however_it_is_written(server: Running, folder: Path) -> None:
    outside = folder / "elsewhere" / "secret"
    paths = [outside, "../elsewhere/secret", f"file://{outside}", "link", folder / "adapters", ".", "/"]
    for path in paths:
        status, message = error_of(server.load("outside", path))
        assert status == 422, (path, message)
        assert "not below a folder" in message
    assert error_of(server.load("outside", "nowhere"))[0] == 404
    assert error_of(server.load("outside", "hf://acme/sql"))[0] == 422
    assert "outside" not in {one["name"] for one in server.status()["adapters"]}


def test_a_broken_adapter_of_a_client_fails_with_its_reason_and_is_not_registered(server: Running) -> None:
    before = server.ask("GET", "/v1/adapters").json()
    for _ in range(2):
        status, message = error_of(server.load("broken", "broken"))
        assert status == 422
        assert "LC302" in message
        assert [one["name"] for one in server.status()["adapters"]] == [one["name"] for one in before["adapters"]]
    assert error_of(server.probe("broken"))[0] == 404
    assert "lora_cli_failing_adapters 0" in server.ask("GET", "/metrics").text
    assert server.probe("a0").status_code == 200


def test_of_a_set_one_that_is_replaced_in_place_stays_pinned_and_the_reason_of_a_broken_one_is_remembered(
    folder: Path,
) -> None:
    alone = folder / "pinning"
    alone.mkdir()
    entries = "".join(
        f"  - {{name: is-{name}, source: ../adapters/a0, pinned: {name}}}\n" for name in ("true", "false")
    )
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ../base\nadapters:\n"
    (alone / "set.yaml").write_text(f"{head}{entries}  - {{name: broken, source: {folder}/adapters/broken}}\n")
    with Running(alone, "-f", alone / "set.yaml", "--root", folder / "adapters") as server:
        known = server.until_ready().adapter("broken")
        for name, pinned in (("is-true", True), ("is-false", False)):
            assert server.load(name, folder / "adapters" / "a3", load_inplace=True).status_code == 200
            assert server.adapter(name)["pinned"] is pinned
        assert (known["failures"] > 0, known["stage"], known["proved"]) == (True, "validate", False)
        status, message = error_of(server.probe("broken"))
        assert (status, "LC302" in message) == (422, True)
        assert "broken" not in {model["id"] for model in server.ask("GET", "/v1/models").json()["data"]}
        assert server.load("broken", folder / "adapters" / "broken").status_code == 422
        assert server.adapter("broken")["error"]


def test_one_of_a_client_that_worked_once_stays_when_a_later_load_fails(server: Running, folder: Path) -> None:
    made = write_adapter(folder / "adapters" / "spoiled", modules=QUERIES, seed=9)
    assert server.load("spoiled", "spoiled").status_code == 200
    assert main(["--cache-dir", str(folder / "cache"), "cache", "rm", str(made)]) == 0
    shutil.rmtree(made)
    os.kill(server.status()["child_pid"], signal.SIGKILL)
    assert error_of(server.probe("spoiled"))[0] in {404, 503}
    assert server.adapter("spoiled")["error"]
    assert server.post("/v1/unload_lora_adapter", lora_name="spoiled").status_code == 200


def test_a_broken_one_does_not_take_the_place_of_one_that_works(server: Running) -> None:
    assert server.load("stays", "a2").status_code == 200
    digest = server.adapter("stays")["digest"]
    status, message = error_of(server.load("stays", "broken", load_inplace=True))
    assert (status, "LC302" in message) == (422, True)
    assert server.adapter("stays")["digest"] == digest
    assert server.probe("stays").status_code == 200
    assert server.post("/v1/unload_lora_adapter", lora_name="stays").status_code == 200


def test_those_who_ask_for_one_adapter_at_a_time_share_one_load(server: Running) -> None:
    def loads() -> float:
        lines = server.ask("GET", "/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("lora_cli_loads_total"))

    before = loads()
    with ThreadPoolExecutor(16) as clients:
        codes = list(clients.map(lambda _: server.load("shared", "a3").status_code, range(16)))
    assert codes == [200] * 16
    assert loads() == before + 1
    assert server.post("/v1/unload_lora_adapter", lora_name="shared").status_code == 200


def test_the_tier_in_the_answer_is_where_the_adapter_was(server: Running) -> None:
    for name in ("a2", "a3"):
        assert server.load(f"tier-{name}", name).status_code == 200
    tiers = {}
    for name in ("a0", "a1", "tier-a2", "tier-a3"):
        until = time.monotonic() + 30
        while server.status()["tiers_age_s"] > 0.1:  # a busy machine is told what was known before
            assert time.monotonic() < until
        before = server.adapter(name)["tier"]
        tiers[name] = server.probe(name).headers["x-lora-tier"]
        assert tiers[name] == before, name
        assert server.adapter(name)["tier"] == "gpu"
    assert set(tiers.values()) > {"gpu"} or set(tiers.values()) & {"cpu", "disk"}
    holdings = server.status()["tiers"]
    assert (holdings["gpu"]["adapters"], holdings["cpu"]["adapters"]) == (2, 3)
    for name in ("tier-a2", "tier-a3"):
        server.post("/v1/unload_lora_adapter", lora_name=name)


def test_metrics_count_requests_by_tier_and_failures_by_stage(server: Running) -> None:
    server.probe("a0")
    server.load("broken-again", "broken")
    lines = dict(
        line.rpartition(" ")[::2]
        for line in server.ask("GET", "/metrics").text.splitlines()
        if not line.startswith("#")
    )
    server.post("/v1/unload_lora_adapter", lora_name="broken-again")
    assert float(lines["lora_cli_ready"]) == 1
    assert sum(float(value) for name, value in lines.items() if name.startswith("lora_cli_requests_total")) >= 1
    assert float(lines['lora_cli_load_failures_total{stage="validate"}']) >= 1
    assert float(lines['lora_cli_resident_adapters{tier="gpu"}']) <= 2
    assert float(lines['lora_cli_load_seconds_total{stage="proof"}']) > 0


def test_routers_find_where_an_adapter_is_under_the_names_of_vllm(server: Running) -> None:
    """``lora_requests_info`` as vLLM has it, and the gauges of residency that vllm-project/vllm#54830 proposes."""
    server.probe("a0")
    families = {one.name: one for one in text_string_to_metric_families(server.ask("GET", "/metrics").text)}
    (requests,) = families["vllm:lora_requests_info"].samples
    assert set(requests.labels) == {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}
    assert requests.labels["max_lora"] == "2"
    assert abs(requests.value - time.time()) < 60
    loaded = {one.labels["adapter_name"]: one.labels for one in families["vllm:lora_adapter_loaded"].samples}
    assert loaded["a0"] == {"adapter_name": "a0", "level": "gpu", "pinned": "false", "rank": "4"}
    in_slots = families["vllm:num_gpu_loaded_lora_adapters"].samples[0].value
    assert 1 <= in_slots <= families["vllm:max_gpu_lora_adapters"].samples[0].value == 2
    assert sum(one["level"] == "gpu" for one in loaded.values()) <= in_slots


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON"),
        (b"[1]", "JSON"),
        (b"{" * 100_000, "JSON"),
        (b'{"lora_name": "x"}', "lora_path"),
        (b'{"lora_name": 1, "lora_path": "a0"}', "text"),
        (b'{"lora_name": "../x", "lora_path": "a0"}', "is not an adapter name"),
        (b'{"lora_name": "x", "lora_path": ""}', "1 to 4096"),
        (b'{"lora_name": "x", "lora_path": "a\\u0000b"}', ""),
        (b'{"lora_name": "x", "lora_path": "a\\ud800"}', "half a surrogate pair"),
        (b'{"lora_name": "x", "lora_path": "a0", "lora_pth": 1}', "did you mean"),
        (b'{"lora_name": "base", "lora_path": "a0"}', "the base"),
        (b'{"lora_name": "x", "lora_path": "a0", "load_inplace": 1}', "true or false"),
        (b'{"load_inplace": 1, "lora_path": "a0"}', "the request has no lora_name; load_inplace must be true or false"),
        (b'{"lora_name": "x", "lora_path": "a0", "\\ud800": 1}', "a key that is not a string"),
        (b"{" + b", ".join(b'"%d": 1' % key for key in range(101)) + b"}", "101 keys"),
    ],
)
def test_what_is_no_request_is_answered_with_400_and_why(server: Running, body: bytes, said: str) -> None:
    import httpx2

    with httpx2.Client(timeout=30) as client:
        url = f"http://localhost:{server.port}/v1/load_lora_adapter"
        answer = client.post(url, content=body, headers={"content-type": "application/json"})
    status, message = error_of(answer)
    assert status in {400, 422}, message
    assert said in message


def test_other_bodies_paths_and_methods_have_their_own_answers(server: Running) -> None:
    import httpx2

    at = f"http://localhost:{server.port}"
    with httpx2.Client(timeout=30) as client:
        plain = client.post(f"{at}/v1/probe", content=b"{}")
        assert plain.status_code == 415
        assert "content-type: application/json" in plain.json()["error"]["message"]
        huge = client.post(f"{at}/v1/probe", content=b"x" * (2 << 20), headers={"content-type": "application/json"})
        assert huge.status_code == 413
        assert client.get(f"{at}/v1/probe").status_code == 405
        assert error_of(client.get(f"{at}/v1/nothing"))[0] == 404
        strange = client.get(f"{at}/v1/models", headers={"host": "evil.example"})
        assert strange.status_code == 421, "a page of another host must not reach it by a name of its own"
        page = client.post(f"{at}/v1/stop", headers={"origin": "https://evil.example"})
        assert error_of(page)[0] == 403, "a page can send what has no body, and must not end it"
        assert client.get(f"{at}/health").status_code == 200


def test_a_path_that_no_file_system_has_room_for_is_not_found(server: Running) -> None:
    assert error_of(server.load("x", "a" * 300))[0] == 404


def test_without_a_whole_model_there_are_no_completions(server: Running) -> None:
    status, message = error_of(server.post("/v1/completions", model="a0", prompt="hello"))
    assert (status, "--forward model" in message) == (400, True)


@pytest.mark.parametrize("asked", [False, True], ids=["on its own", "for a request"])
def test_a_child_that_is_killed_comes_back_with_the_first_adapters(server: Running, asked: bool) -> None:
    import os
    import signal

    before = server.status()
    os.kill(before["child_pid"], signal.SIGKILL)
    until = time.monotonic() + 60
    while asked and server.probe("a0").status_code != 200:
        assert time.monotonic() < until, server.said()
    while time.monotonic() < until:
        now = server.status()
        if now["child_starts"] > before["child_starts"] and now["ready"] and now["tiers"]["gpu"]["adapters"] == 2:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(server.said())
    assert server.probe("a0").status_code == 200
    assert server.ask("GET", "/health").status_code == 200


def test_an_adapter_of_a_larger_rank_and_on_other_modules_than_those_at_the_start_is_loaded(
    server: Running, folder: Path
) -> None:
    write_adapter(folder / "adapters" / "wide", modules=llama_modules(["down_proj", "k_proj"]), r=16)
    assert server.load("wide", "wide").status_code == 200
    assert server.adapter("wide")["rank"] == 16
    write_adapter(folder / "adapters" / "wider", modules=QUERIES, r=17)
    status, message = error_of(server.load("wider", "wider"))
    assert status in {422, 503}
    assert "rank" in message
    assert server.post("/v1/unload_lora_adapter", lora_name="wide").status_code == 200
