"""``cache verify --repair``: what rotted is fetched again, the same bytes or none."""

import os
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.store.snapshots import BLOB_MTIME_NS
from tests.fetching.desk import BYTES, CONFIG, WEIGHTS, Desk
from tests.making import write_adapter
from tests.store.keeping import edit_in_place

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def directory(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Path:
    """The snapshot of one adapter of a manifest."""
    monkeypatch.setenv("HF_ENDPOINT", desk.hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(desk.store.root))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    entry = "{name: sql, source: org/sql}"
    Path("set.yaml").write_text(f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{entry}]\n")
    assert main(["fetch", "-f", "set.yaml"]) == 0
    desk.hub.requests.clear()
    return Path(capsys.readouterr().out.strip())


def rot(directory: Path) -> None:
    """Changes a byte of the weights where no time tells of it."""
    edit_in_place(directory / WEIGHTS, at=500)
    os.utime(directory / WEIGHTS, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))


def verified(capsys: Captured, code: int, *words: str) -> str:
    capsys.readouterr()
    assert main(["cache", "verify", *words]) == code
    return capsys.readouterr().out


def is_whole(directory: Path) -> bool:
    return {path.name: path.read_bytes() for path in directory.iterdir()} == BYTES


def test_what_rotted_is_fetched_again_and_only_that(desk: Desk, directory: Path, capsys: Captured) -> None:
    rot(directory)
    assert main(["cache", "verify", "--repair"]) == 0
    said = capsys.readouterr().out
    assert "corrupt blob" in said
    assert "repaired snapshot" in said
    assert is_whole(directory)
    assert (desk.hub.count("GET cdn"), desk.hub.count("/resolve/.*(json|md)")) == (1, 0)
    assert desk.is_sound


HARMS: dict[str, tuple[dict[str, str], str]] = {
    "its repository is gone": ({}, "org/sql"),
    "offline": ({"LORA_CLI_OFFLINE": "1"}, "offline mode is on"),
    "other bytes": ({}, "expected sha256"),
    "another endpoint": ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "127.0.0.1:9"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_its_origin_does_not_give_back_is_told_until_it_does(
    desk: Desk, directory: Path, harm: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rot(directory)
    environ, told = HARMS[harm]
    if "gone" in harm:
        desk.hub.fault("/api/", status=404, times=-1)
    desk.hub.fault("GET cdn", flip_at=7, times=-1)
    with monkeypatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        for _ in range(2):
            assert main(["cache", "verify", "--repair"]) == 5
            said = " ".join(capsys.readouterr().out.split())
            assert "not repaired: snapshot" in said
            assert told in said
            assert not directory.exists()
            assert desk.is_sound
    desk.hub.faults.clear()
    assert f"repaired snapshot {directory.name}" in " ".join(verified(capsys, 0, "--repair").split())
    assert is_whole(directory)


def test_a_folder_that_was_edited_since_is_not_taken_for_what_rotted(directory: Path, capsys: Captured) -> None:
    adapter = write_adapter(Path("adapter").absolute())
    assert main(["fetch", str(adapter)]) == 0
    copy = Path(capsys.readouterr().out.strip())
    rot(copy)
    assert main(["cache", "verify", "--repair"]) == 0
    rot(copy)
    edit_in_place(adapter / WEIGHTS, at=300)
    assert main(["cache", "verify", "--repair"]) == 5
    assert not copy.exists()


def test_what_no_reference_means_any_more_is_only_taken_away(desk: Desk, directory: Path, capsys: Captured) -> None:
    for path in desk.store.refs.iterdir():
        path.unlink()
    rot(directory)
    assert main(["cache", "verify", "--repair"]) == 0
    assert "not repaired" not in capsys.readouterr().out
    assert not directory.exists()


def test_what_verify_removed_is_fetched_again_by_the_next_repair_or_fetch(
    desk: Desk, directory: Path, capsys: Captured
) -> None:
    for words in (["cache", "verify", "--repair"], ["fetch", "org/sql"]):
        rot(directory)
        assert main(["cache", "verify"]) == 5
        out, err = capsys.readouterr()
        assert " ".join(out.split()).count("; removed") == 2
        assert err.startswith("hint: lora-cli cache verify --repair fetches them again\n")
        assert main(["cache", "verify"]) == 0
        desk.hub.requests.clear()
        assert main(words) == 0
        assert is_whole(directory)
        assert (desk.hub.count("GET cdn"), desk.hub.count("/resolve/.*(json|md)")) == (1, 0)
        capsys.readouterr()
    desk.hub.requests.clear()
    assert "repaired" not in verified(capsys, 0, "--repair")
    assert desk.hub.requests == []


def test_only_the_named_adapter_is_verified_and_restored(desk: Desk, directory: Path, capsys: Captured) -> None:
    desk.hub.add("org/chat", {CONFIG: {"r": 4}, WEIGHTS: os.urandom(50_000)})
    assert main(["fetch", "org/chat"]) == 0
    chat = Path(capsys.readouterr().out.strip())
    rot(directory)
    rot(chat)
    told = " ".join(verified(capsys, 5, "org/sql").split())
    assert told.count("; removed") == 2, told
    assert chat.exists()
    assert main(["cache", "verify"]) == 5
    assert main(["cache", "verify", "--repair", "org/sql"]) == 0
    assert is_whole(directory)
    assert not chat.exists()
    assert main(["cache", "verify", "--repair", "org/chat"]) == 0
    assert chat.exists()
