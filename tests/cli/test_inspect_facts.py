"""What ``inspect`` tells of an adapter beyond its numbers, wherever it is: within kilobytes, whatever its card is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import llama_modules, write_adapter, write_base_config
from tests.object_servers import AzureServer, GcsServer, S3Server
from tests.traffic import Traffic, counted
from tests.web_server import Site, WebServer

Captured = pytest.CaptureFixture[str]
CARD = """---
base_model: acme/base
license: apache-2.0
---
"""
WEIGHTS = 21_000_000


def lines(capsys: Captured) -> dict[str, str]:
    """Each fact by its label, unwrapped."""
    found: dict[str, str] = {}
    label = ""
    for line in capsys.readouterr().out.splitlines()[1:]:
        label = line[:14].strip() or label
        found[label] = f"{found.get(label, '')} {line[14:].strip()}".strip()
    return found


def document(capsys: Captured, *argv: str) -> dict[str, Any]:
    assert main(["inspect", *argv, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def carded(tmp_path: Path) -> Path:
    """An adapter with a model card, as TRL leaves it."""
    folder = write_adapter(tmp_path / "sql", modules=llama_modules(), config={"peft_version": "0.21.2"})
    (folder / "README.md").write_text(CARD)
    return folder


def test_licence_and_base_of_the_card_are_told(carded: Path, capsys: Captured) -> None:
    assert main(["inspect", str(carded)]) == 0

    said = lines(capsys)
    assert said["license"] == "apache-2.0"
    assert said["PEFT"] == "0.21.2"
    assert said["card base"] == "acme/base"  # the config says tiny/base


def test_a_manifest_is_inspected_by_name_with_its_base(carded: Path, tmp_path: Path, capsys: Captured) -> None:
    write_base_config(tmp_path / "base")
    file = tmp_path / "set.yaml"
    entries = "  - {name: sql, source: ./sql}\n  - {name: gone, source: ./gone}\n"
    file.write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nbase: ./base\nadapters:\n{entries}")

    assert main(["inspect", "-f", str(file)]) == 3
    out = capsys.readouterr().out
    table, first, second = out.split("\n\n")
    assert [line.split()[0] for line in table.splitlines() if not line.startswith(" ")] == ["adapter", "sql", "gone"]
    assert table.splitlines()[-1].split()[1:3] == ["not", "read"]
    assert first.startswith("sql\n  source ")
    assert "applies     14/14 modules" in first
    assert second.startswith("gone\n  there is no folder")


BOMB = "---\na: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("readme", "why"),
    [
        (f"{BOMB}---\n".encode(), "an alias (*)"),
        (b"---\nlicense: mit\n" + b"# more\n" * 20_000, "does not end in the 32768 bytes read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "README.md is a git-lfs pointer"),
        (b"---\nlicense: \x1b[2Jmit\n---\n", "this is not YAML"),
    ],
    ids=["bomb", "endless", "pointer", "escape"],
)
def test_a_hostile_card_costs_nothing_but_itself(readme: bytes, why: str, carded: Path, capsys: Captured) -> None:
    (carded / "README.md").write_bytes(readme)
    assert main(["inspect", str(carded)]) == 0

    said = lines(capsys)
    assert said["license"] == "unknown"
    assert why in said["card"]
    assert said["rank"] == "4"


def test_of_a_card_of_100_mb_the_beginning_is_read(carded: Path, capsys: Captured) -> None:
    with (carded / "README.md").open("ab") as stream:
        stream.truncate(100 << 20)  # which is a hole, and would be read as so many zeros
    assert main(["inspect", str(carded)]) == 0

    assert lines(capsys)["license"] == "apache-2.0"


def test_a_card_that_is_no_file_is_said(carded: Path, capsys: Captured) -> None:
    (carded / "README.md").unlink()
    (carded / "README.md").symlink_to("nowhere")
    assert main(["inspect", str(carded)]) == 0

    assert "README.md is a dangling link" in lines(capsys)["card"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an adapter of 21 MB, with a card of a megabyte: the largest that a hostile one may bring here."""
    r = WEIGHTS // (4 * 14 * (64 + 64)) // 8 * 8
    modules = dict.fromkeys(llama_modules(), (64, 64))
    folder = write_adapter(tmp_path_factory.mktemp("large") / "large", modules=modules, r=r)
    (folder / "README.md").write_text(CARD + "more text\n" * 100_000)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x" * 5000}))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(files["adapter_model.safetensors"]) > WEIGHTS * 0.9
    return files


@pytest.fixture(params=["on_the_hub", "on_s3", "on_gcs", "on_azure", "on_the_web"])
def remote(request: pytest.FixtureRequest) -> tuple[str, Traffic]:
    """The adapter on each kind of server: how to name it, and what counts the bytes that the server sends."""
    found: tuple[str, Traffic] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def on_the_hub(large: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Traffic]]:
    with Hub() as hub, counted(hub.endpoint, hub.cdn) as passing:
        hub.add("acme/large", large)
        hub.cdn = f"http://127.0.0.1:{passing.ports[1]}"
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{passing.ports[0]}")
        yield "hf://acme/large", passing


@pytest.fixture
def on_s3(
    large: dict[str, bytes], seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Traffic]]:
    place = seaweed_server.place()
    seaweed_server.put(place, {f"large/{name}": content for name, content in large.items()})
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    with counted(seaweed_server.endpoint) as passing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{passing.ports[0]}")
        yield f"s3://{place}/large", passing


@pytest.fixture
def on_gcs(
    large: dict[str, bytes], gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Traffic]]:
    bucket = gcs_server.bucket()
    gcs_server.put(bucket, {f"large/{name}": content for name, content in large.items()})
    with counted(gcs_server.endpoint, as_host=True) as passing:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{passing.ports[0]}")
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        yield f"gs://{bucket}/large", passing


@pytest.fixture
def on_azure(
    large: dict[str, bytes], azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Traffic]]:
    container = azure_server.container()
    azure_server.put(container, {f"large/{name}": content for name, content in large.items()})
    for name, value in azure_server.environ.items():
        monkeypatch.setenv(name, value)
    with counted(azure_server.endpoint.rpartition("/")[0]) as passing:
        place = f"http://127.0.0.1:{passing.ports[0]}/{azure_server.account}"
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", place)
        yield f"az://{container}/large", passing


@pytest.fixture
def on_the_web(large: dict[str, bytes]) -> Iterator[tuple[str, Traffic]]:
    site = Site({f"large/{name}": content for name, content in large.items()})
    with WebServer(site) as web, counted(web.place) as passing:
        yield f"http://127.0.0.1:{passing.ports[0]}/large", passing


@pytest.mark.slow
def test_21_mb_anywhere_are_known_within_200_kb(remote: tuple[str, Traffic], capsys: Captured) -> None:
    ref, passing = remote
    one = document(capsys, ref)["adapters"][0]["inspection"]

    assert one["weight_bytes"] > WEIGHTS * 0.9
    assert one["card"]["license"] == "apache-2.0"
    assert 0 < passing.received < 200_000
