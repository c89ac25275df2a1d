"""Snapshots: complete or not there, plain files, inside their folder."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.core.snapshot import Blob
from lora_cli.errors import Corrupt, Refused
from lora_cli.store import Store, blobs
from lora_cli.store.blobs import LostBlob, has_blob
from lora_cli.store.snapshots import check_paths, find_snapshot, publish_snapshot
from tests.store.keeping import edit_in_place, put_blob, put_snapshot, tree

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "sub/README.md": b"read"}


def test_a_snapshot_is_hard_links_to_blobs_and_nothing_else(store: Store) -> None:
    snapshot = put_snapshot(store, FILES)
    assert snapshot.directory == store.root / "snapshots" / "sha256" / snapshot.digest
    assert tree(snapshot.directory) == FILES.keys()
    for path, data in FILES.items():
        status = (snapshot.directory / path).stat(follow_symlinks=False)
        assert stat.S_ISREG(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o444
        assert status.st_ino == store.blob(hashlib.sha256(data).hexdigest()).stat().st_ino
    assert snapshot.size == sum(map(len, FILES.values()))


def test_a_file_system_without_hard_links_gets_copies(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    snapshot = put_snapshot(store, FILES)
    assert (snapshot.directory / "adapter_config.json").read_bytes() == b"{}"
    assert find_snapshot(store, snapshot.files) == snapshot


def test_an_edit_in_a_snapshot_is_noticed_and_neither_it_nor_its_blob_is_used(store: Store) -> None:
    snapshot = put_snapshot(store, FILES)
    edit_in_place(snapshot.directory / "adapter_model.safetensors")
    assert find_snapshot(store, snapshot.files) is None
    assert not snapshot.directory.exists()
    assert not has_blob(store, snapshot.files["adapter_model.safetensors"])
    assert has_blob(store, snapshot.files["adapter_config.json"])


def test_a_blob_that_is_gone_is_said_so_and_nothing_half_is_left(store: Store) -> None:
    files = {path: put_blob(store, data) for path, data in FILES.items()}
    store.blob(files["adapter_config.json"].sha256).unlink()
    with pytest.raises(LostBlob):
        publish_snapshot(store, files)
    assert not store.snapshots.exists() or not list(store.snapshots.iterdir())
    assert not list(store.partials.iterdir())


def test_what_cannot_be_moved_out_of_the_way_is_not_given_to_anybody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = put_snapshot(store, FILES)
    (snapshot.directory / "adapter_config.json").unlink()
    monkeypatch.setattr(blobs, "discard", lambda *_: (store.root / "nowhere").rename(store.root))
    with pytest.raises(Corrupt, match="cannot be replaced"):
        publish_snapshot(store, snapshot.files)


BAD_PATHS = [
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "a/",
    "",
    ".",
    "./a",
    "a\0b",
    "a\nb",
    "\udcff",
    "x" * 300,
    "a/" * 600,
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leads_out_of_a_snapshot_is_refused(store: Store, path: str) -> None:
    blob = put_blob(store, b"x")
    before = tree(store.root.parent)
    with pytest.raises(Refused):
        publish_snapshot(store, {path: blob})
    assert tree(store.root.parent) == before


def test_a_file_where_another_needs_a_folder_is_refused() -> None:
    blob = Blob("a" * 64, 1)
    with pytest.raises(Refused, match="a folder of"):
        check_paths({"a": blob, "a/b": blob})


@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "", "a", "b", "\0", "~"])).map("/".join))
def test_what_is_let_through_stays_inside(path: str) -> None:
    try:
        check_paths({path: None})
    except Refused:
        return
    assert os.path.normpath(f"/root/of/all/{path}") == f"/root/of/all/{path}"


PUBLISH = """
import sys
from pathlib import Path
from lora_cli.core.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.snapshots import publish_snapshot
store, blob, count = Store(Path(sys.argv[1])), Blob(sys.argv[2], 7), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    publish_snapshot(store, {f"{number}.json": blob, "a/b": blob})
"""


def test_processes_that_publish_the_same_at_once_all_succeed(store: Store) -> None:
    blob = put_blob(store, b"weights")
    command = [sys.executable, "-c", PUBLISH, str(store.root), blob.sha256, "30"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0] * 4
    assert len(list(store.snapshots.iterdir())) == 30
    assert all(tree(directory) >= {"a/b"} and len(tree(directory)) == 2 for directory in store.snapshots.iterdir())
    assert not list(store.partials.iterdir())
