"""``cache verify --repair``: what rotted is fetched again, the same bytes or none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.store.snapshots import BLOB_MTIME_NS
from tests.fetching.desk import BYTES, CONFIG, WEIGHTS, Desk
from tests.making import write_adapter
from tests.processes import wait
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


@pytest.mark.parametrize("harm", ["gone", "offline", "other bytes", "another endpoint"])
def test_what_its_origin_does_not_give_back_is_told_until_it_does(
    desk: Desk, directory: Path, harm: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rot(directory)
    repos, is_offline = dict(desk.hub.repos), harm == "offline"
    if harm == "gone":
        desk.hub.repos.clear()
    if is_offline:
        monkeypatch.setenv("LORA_CLI_OFFLINE", "1")
    if harm == "other bytes":
        desk.hub.fault("GET cdn", flip_at=7, times=-1)
    if harm == "another endpoint":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for _ in range(2):
        assert main(["cache", "verify", "--repair"]) == 5
        said = capsys.readouterr().out
        assert "not repaired: snapshot" in said
        assert ("offline mode is on" in " ".join(said.split())) == is_offline
        assert not directory.exists()
        assert desk.is_sound
    desk.hub.repos.update(repos)
    desk.hub.faults.clear()
    monkeypatch.delenv("LORA_CLI_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", desk.hub.endpoint)
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


def test_what_verify_removed_is_fetched_again_by_the_next_repair_or_fetch_although_one_was_killed(
    desk: Desk, directory: Path, capsys: Captured
) -> None:
    rot(directory)
    assert main(["cache", "verify"]) == 5
    out, err = capsys.readouterr()
    assert "corrupt snapshot" in out
    assert " ".join(out.split()).count("; removed") == 2
    assert err.startswith("hint: lora-cli cache verify --repair fetches them again\n")
    assert not directory.exists()
    assert main(["cache", "verify"]) == 0
    assert main(["cache", "verify", "org/sql"]) == 3
    desk.hub.fault("GET cdn", stall_at=50_000, times=-1)
    command = [sys.executable, "-m", "lora_cli", "cache", "verify", "--repair"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait(lambda: desk.hub.count("GET cdn") > 0, "the download")
        process.kill()
    assert desk.is_sound
    desk.hub.faults.clear()
    desk.hub.requests.clear()
    assert " from hf://org/sql" in " ".join(verified(capsys, 0, "--repair").split())
    assert is_whole(directory)
    assert (desk.hub.count("GET cdn"), desk.hub.count("/resolve/.*(json|md)")) == (1, 0)
    rot(directory)
    assert main(["cache", "verify"]) == 5
    assert main(["fetch", "org/sql"]) == 0
    assert is_whole(directory)
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
    assert (told.count("; removed"), "3 blobs" in told, "1 snapshot hashed, 2 corrupt" in told) == (2, True, True)
    assert chat.exists()
    assert main(["cache", "verify"]) == 5
    assert main(["cache", "verify", "--repair", "org/sql"]) == 0
    assert is_whole(directory)
    assert not chat.exists()
    assert main(["cache", "verify", "--repair", "org/chat"]) == 0
    assert chat.exists()


def test_hard_links_outside_the_cache_have_the_damage_too_and_are_told(directory: Path, capsys: Captured) -> None:
    assert main(["fetch", "org/sql", "--to", "out"]) == 0
    rot(directory)
    capsys.readouterr()
    told = "hint: hard links outside the cache are also corrupt: fetch --to or --publish replaces them"
    assert main(["cache", "verify"]) == 5
    assert told in capsys.readouterr().err
    assert main(["cache", "verify", "--repair"]) == 0
    assert capsys.readouterr().err == ""
