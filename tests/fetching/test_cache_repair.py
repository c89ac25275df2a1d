"""``cache verify --repair``: what rotted is fetched again, the same bytes or none."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.store.snapshots import BLOB_MTIME_NS
from tests.fetching.desk import BYTES, CONFIG, WEIGHTS, Desk
from tests.store.keeping import edit_in_place

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def directory(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Path:
    """The snapshot of an adapter."""
    monkeypatch.setenv("HF_ENDPOINT", desk.hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(desk.store.root))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    return fetched("org/sql", capsys)


def fetched(ref: str, capsys: Captured) -> Path:
    assert main(["fetch", ref]) == 0
    return Path(capsys.readouterr().out.strip())


def rot(directory: Path) -> None:
    """Changes a byte of the weights where no time tells of it."""
    edit_in_place(directory / WEIGHTS, at=500)
    os.utime(directory / WEIGHTS, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))


def verified(capsys: Captured, code: int, *words: str) -> str:
    capsys.readouterr()
    assert main(["cache", "verify", *words]) == code
    return " ".join(capsys.readouterr().out.split())


def is_whole(directory: Path) -> bool:
    return {path.name: path.read_bytes() for path in directory.iterdir()} == BYTES


def test_what_rotted_or_was_removed_is_fetched_again_and_only_that(
    desk: Desk, directory: Path, capsys: Captured
) -> None:
    for words in (["cache", "verify", "--repair"], ["fetch", "org/sql"]):
        rot(directory)
        said = verified(capsys, 5)
        assert said.count("; removed") == 2
        assert verified(capsys, 0).endswith("no corruption")
        desk.hub.requests.clear()
        assert main(words) == 0
        assert is_whole(directory)
        assert (desk.hub.count("GET cdn"), desk.hub.count("/resolve/.*(json|md)")) == (1, 0)
    rot(directory)
    said = verified(capsys, 0, "--repair")
    assert "corrupt blob" in said
    assert "repaired snapshot" in said
    desk.hub.requests.clear()
    assert "repaired" not in verified(capsys, 0, "--repair")
    assert desk.hub.requests == []
    assert desk.is_sound


@pytest.mark.parametrize(
    ("environ", "told"),
    [({}, "expected sha256"), ({"LORA_CLI_OFFLINE": "1"}, "offline mode is on"),
     ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9")],
    ids=["other bytes", "offline", "another endpoint"],
)  # fmt: skip
def test_what_its_origin_does_not_give_back_is_told_until_it_does(
    desk: Desk, directory: Path, environ: dict[str, str], told: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rot(directory)
    desk.hub.fault("GET cdn", flip_at=7, times=-1)
    with monkeypatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        for _ in range(2):
            said = verified(capsys, 5, "--repair")
            assert "not repaired: snapshot" in said
            assert told in said
            assert not directory.exists()
            assert desk.is_sound
    desk.hub.faults.clear()
    assert f"repaired snapshot {directory.name}" in verified(capsys, 0, "--repair")
    assert is_whole(directory)


def test_only_the_named_adapter_is_verified_and_restored(desk: Desk, directory: Path, capsys: Captured) -> None:
    desk.hub.add("org/chat", {CONFIG: {"r": 4}, WEIGHTS: os.urandom(50_000)})
    chat = fetched("org/chat", capsys)
    rot(directory)
    rot(chat)
    said = verified(capsys, 5, "org/sql")
    assert (said.count("; removed"), sha256(BYTES[WEIGHTS]).hexdigest() in said) == (2, True)
    assert chat.exists()
    assert main(["cache", "verify"]) == 5
    assert main(["cache", "verify", "--repair", "org/sql"]) == 0
    assert is_whole(directory)
    assert not chat.exists()
