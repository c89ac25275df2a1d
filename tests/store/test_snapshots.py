"""Snapshots: complete or not there, plain files, inside their folder."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.errors import Refused
from lora_cli.store import Store
from lora_cli.store.snapshots import LostBlob, check_paths, find_snapshot, has_blob, publish_snapshot
from tests.store.keeping import CONFIG, NESTED, WEIGHTS, edit_in_place, put_blob, put_snapshot, tree


def test_a_snapshot_is_hard_links_to_blobs_and_nothing_else(store: Store) -> None:
    snapshot = put_snapshot(store, NESTED)
    assert snapshot.directory == store.root / "snapshots" / "sha256" / snapshot.digest
    assert tree(snapshot.directory) == NESTED.keys()
    for path, data in NESTED.items():
        status = (snapshot.directory / path).stat(follow_symlinks=False)
        assert stat.S_ISREG(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o444
        assert status.st_ino == store.blob(hashlib.sha256(data).hexdigest()).stat().st_ino
    assert snapshot.size == sum(map(len, NESTED.values()))


def test_a_file_system_without_hard_links_gets_copies(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    snapshot = put_snapshot(store, NESTED)
    assert (snapshot.directory / CONFIG).read_bytes() == b"{}"
    assert find_snapshot(store, snapshot.files) == snapshot


def test_an_edit_in_a_snapshot_is_noticed_and_neither_it_nor_its_blob_is_used(store: Store) -> None:
    snapshot = put_snapshot(store, NESTED)
    edit_in_place(snapshot.directory / WEIGHTS)
    assert find_snapshot(store, snapshot.files) is None
    assert not snapshot.directory.exists()
    assert not has_blob(store, snapshot.files[WEIGHTS])
    assert has_blob(store, snapshot.files[CONFIG])


def test_a_blob_that_is_gone_is_said_so_and_nothing_half_is_left(store: Store) -> None:
    files = {path: put_blob(store, data) for path, data in NESTED.items()}
    store.blob(files[CONFIG].sha256).unlink()
    with pytest.raises(LostBlob):
        publish_snapshot(store, files)
    assert not store.snapshots.exists() or not list(store.snapshots.iterdir())
    assert not list(store.partials.iterdir())


BAD_PATHS = [
    "/etc/passwd", "here/a", "../x", "a/../../x", "a//b", "a/", "", ".", "./a", "a\0b", "a\nb", "\udcff",
    "x" * 300, "a/" * 600,
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leads_out_of_a_snapshot_is_refused(store: Store, path: str) -> None:
    blob = put_blob(store, b"x")
    before = tree(store.root.parent)
    with pytest.raises(Refused):
        publish_snapshot(store, {path: blob, "here": blob})
    assert tree(store.root.parent) == before


@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "", "a", "b", "\0", "~"])).map("/".join))
def test_what_is_let_through_stays_inside(path: str) -> None:
    try:
        check_paths({path: None})
    except Refused:
        return
    assert os.path.normpath(f"/root/of/all/{path}") == f"/root/of/all/{path}"
