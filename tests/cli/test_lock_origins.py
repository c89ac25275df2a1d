"""A lock holds where there are no commits, too: the files of a folder, a bucket or a server are the locked ones."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.cli.locked_sets import CONFIG, WEIGHTS, Capture, fetch, forget_the_cache, locked, set_of
from tests.making import llama_modules, write_adapter, write_base_config
from tests.object_servers import S3Server
from tests.web_server import Site, WebServer

FIRST = {CONFIG: b'{"r": 1}', WEIGHTS: b"first weights"}
SAME_SIZE = {CONFIG: b'{"r": 1}', WEIGHTS: b"other weights"}
LARGER = {CONFIG: b'{"r": 1}', WEIGHTS: b"weights that are larger"}
Put = Callable[[Mapping[str, bytes]], None]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["s3", "web"])
def put(request: pytest.FixtureRequest, here: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Overwrites the files of the one adapter of the set, which is fetched and locked."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("seaweed_server")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket()

        def put(files: Mapping[str, bytes]) -> None:
            server.put(bucket, {f"sql/{name}": content for name, content in files.items()})

        put(FIRST)
        set_of(f"sql=s3://{bucket}/sql")
        assert fetch() == 0
        yield put
        return
    site = Site({f"sql/{name}": content for name, content in FIRST.items()})
    with WebServer(site) as web:
        set_of(f"sql=http://{web.place}/sql")
        assert fetch() == 0
        yield lambda files: site.files.update({f"sql/{name}": content for name, content in files.items()})


def test_what_is_overwritten_stays_as_it_is_locked_while_it_is_here(put: Put, capsys: Capture) -> None:
    def fetched(*argv: str) -> dict[str, bytes]:
        capsys.readouterr()
        assert fetch(*argv) == 0
        return {path.name: path.read_bytes() for path in Path(capsys.readouterr().out.strip()).iterdir()}

    first = locked("sql")
    put(SAME_SIZE)
    assert fetched() == fetched("--locked") == FIRST
    assert main(["validate", "-f", "set.yaml", "--base", "none", "--format", "json"]) == 1  # they are no weights
    judged = json.loads(capsys.readouterr().out)["adapters"][0]
    assert (judged["revision"], judged["error"], locked("sql")) == (first.revision, None, first)
    assert fetched("--upgrade") == SAME_SIZE
    assert locked("sql").revision != first.revision


@pytest.mark.parametrize(("files", "code"), [(LARGER, 1), (SAME_SIZE, 5)], ids=["larger", "same size"])
def test_other_bytes_than_are_locked_are_refused_with_what_to_do(
    files: Mapping[str, bytes], code: int, put: Put, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = locked("sql")
    put(files)
    forget_the_cache(monkeypatch, tmp_path)
    for argv in ([], ["--locked"]):
        capsys.readouterr()
        assert fetch(*argv) == code
        out, err = capsys.readouterr()
        assert (out, WEIGHTS in err, "--upgrade sql" in err, locked("sql")) == ("", True, True, first)


def retrain(folder: str, *, seed: int = 0, r: int = 4) -> None:
    write_adapter(Path(folder), modules=llama_modules(), seed=seed, r=r)


SHARD = "adapter_model-00001-of-00001.safetensors"
CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "retrained": (lambda: retrain("mine", seed=2), f"{WEIGHTS} has different bytes from the locked ones"),
    "longer": (lambda: retrain("mine", r=8), "bytes now, but is locked with"),
    "more": (lambda: shutil.copy(Path("mine", WEIGHTS), Path("mine", SHARD)), f"{SHARD} exists now but is not locked"),
    "gone": (Path("mine", CONFIG).unlink, f"{CONFIG} is locked but no longer exists"),
}
COMMANDS = {
    "fetch": ["fetch", "--locked"],
    "fetch --publish": ["fetch", "--locked", "--publish", "out"],
    "validate": ["validate", "--base", "base"],
    "inspect": ["inspect", "--base", "base"],
    "warm": ["warm", "--base", "base", "--device", "cpu"],
}


@pytest.fixture
def mine() -> None:
    """A set in the current folder with one adapter beside it, fetched and locked."""
    write_base_config(Path("base"))
    retrain("mine", seed=1)
    set_of("mine=./mine")
    assert fetch() == 0


def run(name: str) -> int:
    verb, *words = COMMANDS[name]
    return main([verb, "-f", "set.yaml", *words])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cache", ["warm", "empty"])
def test_a_gate_is_red_whether_or_not_the_cache_has_what_is_locked(
    change: str, cache: str, mine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    spoil, says = CHANGES[change]
    spoil()
    if cache == "empty":
        forget_the_cache(monkeypatch, tmp_path)
    for name in ("fetch", "validate"):
        capsys.readouterr()
        assert run(name) == 1
        told = " ".join("".join(capsys.readouterr()).split())
        assert (says in told, "lora-cli fetch -f set.yaml --upgrade mine" in told) == (True, True), told


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_a_folder_that_is_not_what_is_locked_and_takes_it_when_it_is(
    name: str, mine: None, capsys: Capture
) -> None:
    """The same bytes at another time are what is locked."""
    for path in Path("mine").iterdir():
        os.utime(path, (1, 1))
    Path("mine", "notes.txt").write_text("no part of the adapter")
    assert run(name) == 0
    CHANGES["retrained"][0]()
    capsys.readouterr()
    assert run(name) == 1
    assert "has different bytes from the locked ones" in " ".join("".join(capsys.readouterr()).split())
    assert fetch("--upgrade", "mine") == 0
    assert name == "warm" or run(name) == 0


@pytest.mark.parametrize("parent", ["is there", "is gone, too"])
def test_a_locked_folder_that_is_gone_is_read_from_the_cache_and_never_looked_for_on_the_hub(
    parent: str, mine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Written ``adapters/sql``, it looks like a repository, and somebody may have one of that name."""
    retrain("adapters/sql", seed=3)
    set_of("mine=./mine", "sql=adapters/sql")
    assert fetch() == 0
    assert locked("sql").revision == ""
    shutil.rmtree("adapters" if parent == "is gone, too" else "adapters/sql")
    capsys.readouterr()
    assert fetch("--locked") == 0
    assert main(["validate", "-f", "set.yaml", "--base", "base"]) == 3
    assert f"thereisnofolder{tmp_path / 'adapters/sql'}" in "".join(capsys.readouterr().out.split())
    assert main(["validate", "-f", "set.yaml", "--base", "base", "mine"]) == 0
    forget_the_cache(monkeypatch, tmp_path)
    for argv in (["--upgrade", "sql"], ["--locked"]):
        assert fetch(*argv) == 3
        assert "there is no folder" in capsys.readouterr().err


def test_a_path_is_looked_for_in_folders_alone(mine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    set_of("mine=~/mine")
    assert fetch() == main(["validate", "~/mine", "--base", "base"]) == 0
    retrain("adapters/sql")
    for wrong in ("adapters/sgl", "~nobody-of-that-name/x"):
        assert main(["validate", wrong, "--base", "none"]) == main(["fetch", wrong]) == 3
