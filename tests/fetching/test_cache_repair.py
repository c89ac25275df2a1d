"""``cache verify --repair``: what rotted is fetched again, the same bytes or none."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.store import Store
from lora_cli.store.blobs import BLOB_MTIME_NS
from lora_cli.store.verify import verify
from tests.hub_server import Hub
from tests.making import write_adapter
from tests.processes import wait
from tests.store.keeping import edit_in_place

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BYTES = os.urandom(100_000)
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        hub.add("org/sql", {CONFIG: {"r": 4}, WEIGHTS: BYTES, "README.md": "read"})
        yield hub


@pytest.fixture
def directory(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Path:
    """The snapshot of one adapter of a manifest."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    manifest = tmp_path / "set.yaml"
    head = "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n"
    manifest.write_text(head + "  - {name: sql, source: org/sql}\n")
    assert main(["fetch", "-f", str(manifest)]) == 0
    hub.requests.clear()
    return Path(capsys.readouterr().out.strip())


def rot(path: Path) -> None:
    """Changes a byte where no time tells of it."""
    edit_in_place(path, at=500)
    os.utime(path, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))


def is_sound(directory: Path) -> bool:
    return not any(one.problem for one in verify(Store(directory.parents[2])))


def test_what_rotted_is_fetched_again_and_only_that(hub: Hub, directory: Path, capsys: Captured) -> None:
    rot(directory / WEIGHTS)
    assert main(["cache", "verify", "--repair"]) == 0
    said = capsys.readouterr().out
    assert "corrupt blob" in said
    assert "repaired snapshot" in said
    assert (directory / WEIGHTS).read_bytes() == BYTES
    assert sorted(path.name for path in directory.iterdir()) == sorted([CONFIG, WEIGHTS, "README.md"])
    assert hub.count("GET cdn") == 1
    assert hub.count("/resolve/.*(json|md)") == 0
    assert is_sound(directory)


def run_json(capsys: Captured, code: int, *words: str) -> dict[str, Any]:
    assert main(["cache", "verify", *words, "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("harm", ["gone", "offline", "other bytes"])
def test_what_its_origin_does_not_give_back_is_told_until_it_does(
    hub: Hub, directory: Path, harm: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    rot(directory / WEIGHTS)
    repos = dict(hub.repos)
    if harm == "gone":
        hub.repos.clear()
    if harm == "offline":
        monkeypatch.setenv("LORA_CLI_OFFLINE", "1")
    if harm == "other bytes":
        hub.fault("GET cdn", flip_at=7, times=-1)
    for _ in range(2):
        assert main(["cache", "verify", "--repair"]) == 5
        said = capsys.readouterr().out
        assert "not repaired: snapshot" in said
        assert ("offline mode is on" in " ".join(said.split())) == (harm == "offline")
        assert not directory.exists()
        assert is_sound(directory)
    hub.repos.update(repos)
    hub.faults.clear()
    monkeypatch.delenv("LORA_CLI_OFFLINE", raising=False)
    assert [one["name"] for one in run_json(capsys, 0, "--repair")["repaired"]] == [directory.name]
    assert (directory / WEIGHTS).read_bytes() == BYTES


def test_a_manifest_says_which_are_fetched_again(hub: Hub, directory: Path, capsys: Captured) -> None:
    hub.add("org/other", {CONFIG: {"r": 4}, WEIGHTS: BYTES[:1000]})
    assert main(["fetch", "org/other"]) == 0
    other = Path(capsys.readouterr().out.strip())
    for one in (directory, other):
        rot(one / WEIGHTS)
    manifest = str(directory.parents[2].parent / "set.yaml")
    assert main(["cache", "verify", "--repair", "-f", manifest]) == 0
    assert capsys.readouterr().out.count("repaired snapshot") == 1
    assert main(["cache", "verify"]) == 5


def test_a_folder_that_was_edited_since_is_not_taken_for_what_rotted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    adapter = write_adapter(tmp_path / "adapter")
    assert main(["fetch", str(adapter)]) == 0
    directory = Path(capsys.readouterr().out.strip())
    rot(directory / WEIGHTS)
    assert main(["cache", "verify", "--repair"]) == 0
    rot(directory / WEIGHTS)
    edit_in_place(adapter / WEIGHTS, at=300)
    assert main(["cache", "verify", "--repair"]) == 5
    assert not directory.exists()


def test_what_no_reference_means_any_more_is_only_taken_away(directory: Path, capsys: Captured) -> None:
    store = Store(directory.parents[2])
    for path in store.refs.iterdir():
        path.unlink()
    rot(directory / WEIGHTS)
    assert main(["cache", "verify", "--repair"]) == 0
    assert "not repaired" not in capsys.readouterr().out
    assert not directory.exists()


def test_what_verify_removed_is_fetched_again_by_the_next_repair_or_fetch(
    hub: Hub, directory: Path, capsys: Captured
) -> None:
    rot(directory / WEIGHTS)
    assert main(["cache", "verify"]) == 5
    out, err = capsys.readouterr()
    assert "corrupt snapshot" in out
    assert " ".join(out.split()).count("; removed") == 2
    assert err.startswith("hint: lora-cli cache verify --repair fetches them again\n")
    assert not directory.exists()
    assert main(["cache", "verify"]) == 0
    assert main(["cache", "verify", "org/sql"]) == 3
    capsys.readouterr()
    assert [one["ref"] for one in run_json(capsys, 0, "--repair")["repaired"]] == ["hf://org/sql"]
    assert (directory / WEIGHTS).read_bytes() == BYTES
    assert (hub.count("GET cdn"), hub.count("/resolve/.*(json|md)")) == (1, 0)
    rot(directory / WEIGHTS)
    assert main(["cache", "verify"]) == 5
    assert main(["fetch", "org/sql"]) == 0
    assert (directory / WEIGHTS).read_bytes() == BYTES
    hub.requests.clear()
    capsys.readouterr()
    assert run_json(capsys, 0, "--repair")["repaired"] == []
    assert hub.requests == []


def test_a_repair_that_is_killed_leaves_a_cache_that_verifies_and_the_next_one_goes_on(
    hub: Hub, directory: Path, capsys: Captured
) -> None:
    rot(directory / WEIGHTS)
    assert main(["cache", "verify"]) == 5
    hub.fault("GET cdn", stall_at=50_000, times=-1)
    command = [sys.executable, "-m", "lora_cli", "cache", "verify", "--repair"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait(lambda: hub.count("GET cdn") > 0, "the download")
        process.kill()
    assert is_sound(directory)
    hub.faults.clear()
    capsys.readouterr()
    assert [one["kind"] for one in run_json(capsys, 0, "--repair")["repaired"]] == ["snapshot"]
    assert (directory / WEIGHTS).read_bytes() == BYTES


@pytest.mark.parametrize("words", [["org/sql"], ["-f", "set.yaml", "sql"]])
def test_only_the_named_adapter_is_verified_and_restored(
    hub: Hub, directory: Path, words: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parents[3])
    hub.add("org/chat", {CONFIG: {"r": 4}, WEIGHTS: os.urandom(50_000)})
    assert main(["fetch", "org/chat"]) == 0
    chat = Path(capsys.readouterr().out.strip())
    rot(directory / WEIGHTS)
    rot(chat / WEIGHTS)
    document = run_json(capsys, 5, *words)
    assert [(one["kind"], one["removed"]) for one in document["rotten"]] == [("blob", True), ("snapshot", True)]
    assert (document["blobs"], document["snapshots"]) == (3, 1)
    assert chat.exists()
    assert main(["cache", "verify"]) == 5
    assert main(["cache", "verify", "--repair", *words]) == 0
    assert (directory / WEIGHTS).read_bytes() == BYTES
    assert not chat.exists()
    assert main(["cache", "verify", "--repair", "org/chat"]) == 0
    assert chat.exists()


def test_an_adapter_that_is_not_in_the_cache_cannot_be_verified(directory: Path, capsys: Captured) -> None:
    assert directory.exists()
    assert main(["cache", "verify", "sqll"]) == 3
    assert "hint: did you mean hf://org/sql" in capsys.readouterr().err


def test_hard_links_outside_the_cache_have_the_damage_too_and_are_told(
    hub: Hub, directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["fetch", "org/sql", "--to", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    rot(directory / WEIGHTS)
    told = "hint: hard links outside the cache are also corrupt: fetch --to or --publish replaces them"
    assert main(["cache", "verify"]) == 5
    assert told in capsys.readouterr().err
    assert main(["cache", "verify", "--repair"]) == 0
    assert capsys.readouterr().err == ""


def test_a_fetch_that_finds_damage_says_so(
    hub: Hub, directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_in_place(directory / WEIGHTS, at=500)
    assert main(["fetch", "org/sql", "--offline", "--to", str(tmp_path / "out")]) != 0
    assert "the cached file was corrupt and was removed" in caplog.text
    assert main(["fetch", "org/sql", "--to", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == BYTES
