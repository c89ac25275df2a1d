"""Folders that are handed out: weights are linked, the rest is copied, and nothing of others is replaced."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_cli.errors import UsageError
from lora_cli.store import Store
from lora_cli.store.materialize import LOCK, MARK_FILE, hidden_folder, materialize, remove_leftovers
from tests.store.keeping import edit_in_place, put_snapshot, tree

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "sub/README.md": b"read"}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out" / "sql"


@pytest.mark.parametrize("publish", [False, True])
def test_it_has_linked_weights_and_copied_json_and_stays_as_it_is(store: Store, out: Path, publish: bool) -> None:
    snapshot = put_snapshot(store, FILES)
    materialize(store, snapshot, out, publish=publish)
    assert tree(out) == FILES.keys() | ({MARK_FILE} if publish else set())
    assert (out / WEIGHTS).samefile(snapshot.directory / WEIGHTS)
    config, inode = out / "adapter_config.json", out.stat().st_ino
    materialize(store, snapshot, out, publish=publish)
    assert out.stat().st_ino == inode
    config.write_bytes(b"[]")
    assert (snapshot.directory / "adapter_config.json").read_bytes() == b"{}"
    if publish:
        materialize(store, snapshot, out, publish=True)
        assert config.read_bytes() == b"{}"


@pytest.mark.parametrize("publish", [False, True])
@pytest.mark.parametrize("there", ["more", "other weights", "file", "link"])
def test_nothing_of_others_is_replaced(store: Store, out: Path, publish: bool, there: str) -> None:
    snapshot = put_snapshot(store, FILES)
    if there in {"file", "link"}:
        out.parent.mkdir()
        out.write_bytes(b"mine") if there == "file" else out.symlink_to(store.root)
    else:
        materialize(store, put_snapshot(store, {**FILES, WEIGHTS: b"sthgiew"}) if there != "more" else snapshot, out)
        (out / "mine").write_bytes(b"mine") if there == "more" else None
    before = tree(out.parent)
    with pytest.raises(UsageError, match="exists, with other content"):
        materialize(store, snapshot, out, publish=publish)
    assert tree(out.parent) == before


def test_an_empty_folder_is_filled_and_what_was_published_is_replaced(
    store: Store, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir(parents=True)
    materialize(store, put_snapshot(store, FILES), out, publish=True)
    for number in range(2):
        new = put_snapshot(store, {**FILES, WEIGHTS: b"%d" % number})
        materialize(store, new, out, publish=True)
        assert (out / WEIGHTS).read_bytes() == b"%d" % number
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: None)  # the system cannot exchange two folders
    assert [path.name for path in out.parent.iterdir()] == ["sql"]


def test_damaged_links_are_replaced_once_the_cache_is_whole_again(store: Store, out: Path) -> None:
    snapshot = put_snapshot(store, FILES)
    materialize(store, snapshot, out, publish=True)
    times = (out / WEIGHTS).stat()
    edit_in_place(out / WEIGHTS)
    os.utime(out / WEIGHTS, ns=(times.st_atime_ns, times.st_mtime_ns))
    store.blob(snapshot.files[WEIGHTS].sha256).unlink()
    (snapshot.directory / WEIGHTS).unlink()
    materialize(store, put_snapshot(store, FILES), out, publish=True)
    assert (out / WEIGHTS).read_bytes() == b"weights"


KILLED = """
import os, sys
from pathlib import Path
from lora_cli.store.materialize import hidden_folder
with hidden_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"x")
    os._exit(9)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(out: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False).returncode == 9
    assert len(list(out.parent.iterdir())) == 2
    (out.parent / ".sql.0123456789ab").mkdir()
    with hidden_folder(out) as folder:
        remove_leftovers(out.parent)
        assert {path.name for path in out.parent.iterdir()} == {
            ".sql.0123456789ab",
            folder.name,
            f"{folder.name}{LOCK}",
        }
    assert [path.name for path in out.parent.iterdir()] == [".sql.0123456789ab"]
