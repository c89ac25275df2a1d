"""A lock holds for origins without commits too: their files are the locked ones, or nothing."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.documents.lockfile import read_lock
from lora_cli.refs.lock import LockedAdapter
from tests.object_servers import S3Server
from tests.web_server import Site, WebServer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]
FIRST = {CONFIG: b'{"r": 1}', WEIGHTS: b"first weights"}
SAME_SIZE = {CONFIG: b'{"r": 1}', WEIGHTS: b"other weights"}
LARGER = {CONFIG: b'{"r": 1}', WEIGHTS: b"weights that are larger"}


@dataclass(frozen=True)
class Origin:
    """A place whose files can be overwritten."""

    ref: str
    put: Callable[[Mapping[str, bytes]], None]


@pytest.fixture(params=["s3", "web"])
def origin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("seaweed_server")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket()
        yield Origin(
            f"s3://{bucket}/sql",
            lambda files: server.put(bucket, {f"sql/{name}": content for name, content in files.items()}),
        )
        return
    site = Site()
    with WebServer(site) as web:

        def put(files: Mapping[str, bytes]) -> None:
            site.files = {f"sql/{name}": content for name, content in files.items()}

        yield Origin(f"http://127.0.0.1:{web.server_port}/sql", put)


@pytest.fixture(autouse=True)
def a_set_of_one(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    text = "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: sql, source: "
    Path("set.yaml").write_text(f'{text}"{origin.ref}"}}]\n')
    origin.put(FIRST)
    assert main(["fetch", "-f", "set.yaml"]) == 0


def locked() -> LockedAdapter:
    found = read_lock(Path("set.lock.yaml")).get("sql")
    assert found is not None
    return found


def fetched(capsys: Capture, *argv: str) -> dict[str, bytes]:
    capsys.readouterr()
    assert main(["fetch", "-f", "set.yaml", *argv]) == 0
    folder = Path(capsys.readouterr().out.strip())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_overwritten_stays_as_it_is_locked_while_it_is_here(origin: Origin, capsys: Capture) -> None:
    first = locked()
    assert first.revision
    origin.put(SAME_SIZE)
    assert fetched(capsys) == FIRST
    assert fetched(capsys, "--locked") == FIRST
    assert locked() == first
    assert fetched(capsys, "--upgrade") == SAME_SIZE
    assert locked().revision != first.revision
    assert fetched(capsys, "--locked") == SAME_SIZE


@pytest.mark.parametrize(("files", "code"), [(LARGER, 1), (SAME_SIZE, 5)])
@pytest.mark.parametrize("argv", [[], ["--locked"]])
def test_other_bytes_than_are_locked_are_refused_with_what_to_do(
    files: Mapping[str, bytes],
    code: int,
    argv: list[str],
    origin: Origin,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = locked()
    origin.put(files)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(Path("empty").absolute()))
    capsys.readouterr()
    assert main(["fetch", "-f", "set.yaml", *argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert WEIGHTS in err
    assert "--upgrade sql" in err
    assert locked() == first


@pytest.mark.parametrize("files", [LARGER, SAME_SIZE])
def test_validate_judges_what_is_locked_and_here_and_not_what_is_there_now(
    files: Mapping[str, bytes], origin: Origin, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.put(files)

    def judged() -> dict[str, Any]:
        capsys.readouterr()
        assert main(["validate", "-f", "set.yaml", "--base", "none", "--format", "json"]) == 1  # they are no weights
        adapter: dict[str, Any] = json.loads(capsys.readouterr().out)["adapters"][0]
        return adapter

    assert (judged()["revision"], judged()["error"]) == (locked().revision, None)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(Path("empty").absolute()))
    if files is LARGER:
        assert "bytes now, but is locked with" in judged()["error"]["message"]
