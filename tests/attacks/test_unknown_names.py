"""Names that no adapter has, of any length, asked of a server that knows many adapters; and its long lists."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from lora_cli.core.adapter_request import AdapterRequest
from lora_cli.errors import NotFound
from lora_cli.serving.adapter_state import MOST_SUGGESTED, AdapterRegistry
from tests.attacks.besieged import ends_s, probed, resident_mb
from tests.attacks.hooked import HURRIED, import_path
from tests.making import llama_modules, write_adapter, write_base
from tests.serving.running import Running, error_of

pytestmark = pytest.mark.slow

CLIENTS = 20


def write_set(folder: Path, count: int) -> Path:
    """A manifest of so many adapters, which are all the same one."""
    write_base(folder / "base")
    write_adapter(folder / "adapter", modules=llama_modules(["q_proj"]))
    entries = "".join(f"- {{name: adapter-number-{number}, source: ./adapter}}\n" for number in range(count))
    file = folder / "set.yaml"
    file.write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: {folder / 'base'}\nadapters:\n{entries}")
    return file


@pytest.fixture(scope="module", params=[5000, pytest.param(49_000, marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("many")
    manifest = write_set(folder, request.param)
    few = ("--max-loras", 1, "--max-cpu-loras", 1)
    with Running(folder, "-f", manifest, *few, PYTHONPATH=import_path(folder / "hook", HURRIED)) as running:
        yield running.until_ready(patience_s=300)


def test_unknown_names_keep_nobody_waiting(server: Running) -> None:
    answers: list[int] = []

    def ask(number: int) -> None:
        with httpx2.Client(timeout=30) as client:
            until = time.monotonic() + 4
            while time.monotonic() < until:
                name = f"adaptor-numbre-{number}"
                url = f"http://localhost:{server.port}/v1/"
                asked = ("probe", "unload_lora_adapter")
                answers.extend(client.post(f"{url}{path}", json={"lora_name": name}).status_code for path in asked)

    with probed(server), probed(server, "/metrics"), ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, range(CLIENTS)))
    assert set(answers) == {404}
    assert len(answers) > 1000


def test_long_lists_keep_nobody_waiting_and_are_whole(server: Running) -> None:
    known = int(float(server.ask("GET", "/metrics").text.partition("\nlora_cli_adapters ")[2].split()[0]))
    before = resident_mb(server.process.pid)
    with probed(server), ThreadPoolExecutor(8) as clients:
        paths = ["/v1/models", "/v1/adapters", "/v1/status"] * 3
        answers = list(clients.map(lambda path: server.ask("GET", path).json(), paths))
    for answer in answers:
        rows = answer.get("data", answer.get("adapters"))
        names = [row.get("id", row.get("name")) for row in rows]
        assert names[-1] == f"adapter-number-{known - 1}"
        assert len(names) == known + ("data" in answer)
    assert resident_mb(server.process.pid) - before < 100


def test_a_client_that_reads_no_list_is_closed(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(b"GET /v1/adapters HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20)
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012 - the first that meets a closed connection
            while time.monotonic() - began < 12:
                time.sleep(0.2)
                one.sendall(b"\r\n")
        assert time.monotonic() - began > 2
    assert server.ask("GET", "/health").status_code == 200


def test_many_that_are_told_and_taken_away_keep_nobody_waiting(server: Running) -> None:
    names = [f"adapter-number-{number}" for number in range(2000, 2200)]
    with probed(server), ThreadPoolExecutor(CLIENTS) as clients:
        gone = list(clients.map(lambda name: server.post("/v1/unload_lora_adapter", lora_name=name), names))
        assert {answer.status_code for answer in gone} == {200}


def test_names_are_suggested_among_few_and_short_ones() -> None:
    def said(names: list[str], asked: str) -> str:
        with pytest.raises(NotFound) as error:
            AdapterRegistry(AdapterRequest(name, "source") for name in names).of(asked)
        assert len(error.value.message) < 200
        return error.value.hint

    few = [f"adapter-{number:04}" for number in range(MOST_SUGGESTED)]
    assert said(few, "adapter-001") == "did you mean adapter-0001?"
    assert said([*few, "one-more"], "adapter-001") == ""
    long = ["n" * 256 for _ in range(MOST_SUGGESTED)]
    began = time.monotonic()
    for asked in ("n" * 100, "n" * 900_000, "\ud800" * 900_000):
        assert said(long, asked) == ""
    assert time.monotonic() - began < 0.5


def test_an_unknown_name_is_shortened_where_it_is_answered(server: Running) -> None:
    status, said = error_of(server.post("/v1/probe", lora_name="n" * 256))
    assert (status, len(said) < 200) == (404, True)


def test_a_server_that_writes_long_lists_ends_when_told(server: Running) -> None:
    """The last test: nobody asks it afterwards."""
    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(server.ask, "GET", "/v1/status") for _ in range(32)]
        time.sleep(0.2)
        assert ends_s(server) < 7, "answers under way have five seconds"
        whole = [one.result() for one in asked if one.exception() is None]
    assert all(json.loads(answer.text)["adapters"] for answer in whole)
