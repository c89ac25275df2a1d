"""Folders that are handed out: weights are linked, the rest is copied, and nothing of others is replaced."""

import ctypes
import os
from pathlib import Path

import pytest

from lora_cli.errors import UsageError
from lora_cli.store import Store
from lora_cli.store.materialize import MARK_FILE, materialize
from tests.store.keeping import edit_in_place, put_snapshot, tree

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "sub/README.md": b"read"}
WEIGHTS = "adapter_model.safetensors"


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
