"""A lock holds where there are no commits, too: the files of a folder, a bucket or a server are the locked ones."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.cli.locked_sets import CONFIG, WEIGHTS, forget_the_cache, locked, set_of
from tests.cli.running import Run
from tests.making import llama_modules, write_adapter, write_base_config
from tests.object_servers import S3Server
from tests.web_server import Site, WebServer

FIRST = {CONFIG: b'{"r": 1}', WEIGHTS: b"first weights"}
SAME_SIZE = {CONFIG: b'{"r": 1}', WEIGHTS: b"other weights"}
LARGER = {CONFIG: b'{"r": 1}', WEIGHTS: b"weights that are larger"}
FETCH, VALIDATE = "fetch -f set.yaml", "validate -f set.yaml --base base"
Put = Callable[[Mapping[str, bytes]], None]


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture(params=["s3", "web"])
def put(request: pytest.FixtureRequest, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
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
        run(FETCH)
        yield put
        return
    site = Site({f"sql/{name}": content for name, content in FIRST.items()})
    with WebServer(site) as web:
        set_of(f"sql=http://{web.place}/sql")
        run(FETCH)
        yield lambda files: site.files.update({f"sql/{name}": content for name, content in files.items()})


def test_what_is_overwritten_stays_as_it_is_locked_while_it_is_here(put: Put, run: Run) -> None:
    def fetched(word: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path(run(f"{FETCH} {word}").out.strip()).iterdir()}

    first = locked("sql")
    put(SAME_SIZE)
    assert fetched("") == fetched("--locked") == FIRST
    (judged,) = run("validate -f set.yaml --base none --format json", 1).document["adapters"]  # they are no weights
    assert (judged["revision"], judged["error"], locked("sql")) == (first.revision, None, first)
    assert fetched("--upgrade") == SAME_SIZE
    assert locked("sql").revision != first.revision


@pytest.mark.parametrize("files", [LARGER, SAME_SIZE], ids=["larger", "same size"])
def test_other_bytes_than_are_locked_are_refused_with_what_to_do(
    files: Mapping[str, bytes], put: Put, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = locked("sql")
    put(files)
    forget_the_cache(monkeypatch)
    for word in ("", "--locked"):
        out, err = run(f"{FETCH} {word}", 1)
        assert (out, WEIGHTS in err, "--upgrade sql" in err, locked("sql")) == ("", True, True, first)


def retrain(folder: str, *, seed: int = 0, r: int = 4) -> None:
    write_adapter(Path(folder), modules=llama_modules(), seed=seed, r=r)


@pytest.fixture
def mine(run: Run) -> None:
    """A set in the current folder with one adapter beside it, fetched and locked."""
    write_base_config(Path("base"))
    retrain("mine", seed=1)
    set_of("mine=./mine")
    run(FETCH)


SHARD = "adapter_model-00001-of-00001.safetensors"
CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "retrained": (lambda: retrain("mine", seed=2), f"{WEIGHTS} has different bytes from the locked ones"),
    "longer": (lambda: retrain("mine", r=8), "bytes now, but is locked with"),
    "more": (lambda: shutil.copy(Path("mine", WEIGHTS), Path("mine", SHARD)), f"{SHARD} exists now but is not locked"),
    "gone": (Path("mine", CONFIG).unlink, f"{CONFIG} is locked but no longer exists"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cache", ["cache", "empty"])
def test_a_gate_is_red_whether_or_not_the_cache_has_what_is_locked(
    change: str, cache: str, mine: None, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    spoil, says = CHANGES[change]
    spoil()
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", cache)
    for line in (f"{FETCH} --locked", VALIDATE, "inspect -f set.yaml"):
        told = run(line, 1).text
        assert (says in told, "lora-cli fetch -f set.yaml --upgrade mine" in told) == (True, True), told


@pytest.mark.parametrize("parent", ["is there", "is gone, too"])
def test_a_locked_folder_that_is_gone_is_read_from_the_cache_and_never_looked_for_on_the_hub(
    parent: str, mine: None, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Written ``adapters/sql``, it looks like a repository, and somebody may have one of that name."""
    retrain("adapters/sql", seed=3)
    set_of("mine=./mine", "sql=adapters/sql")
    run(FETCH)
    assert locked("sql").revision == ""
    shutil.rmtree("adapters" if parent == "is gone, too" else "adapters/sql")
    run(f"{FETCH} --locked")
    told = "".join(run(VALIDATE, 3).out.split())
    assert f"thereisnofolder{Path.cwd() / 'adapters/sql'}" in told
    run(f"{VALIDATE} mine")
    forget_the_cache(monkeypatch)
    for words in ("--upgrade sql", "--locked"):
        assert "there is no folder" in run(f"{FETCH} {words}", 3).err
