"""Blobs, snapshots and what is made of them: what their names say, complete or not there, inside their folder."""

import ctypes
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.errors import Refused, UsageError
from lora_cli.refs.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.materialize import materialize
from lora_cli.store.snapshots import (
    BLOB_MTIME_NS,
    LostBlob,
    check_paths,
    find_snapshot,
    has_blob,
    open_partial,
    publish_snapshot,
    store_blobs,
)
from tests.store.keeping import CONFIG, NESTED, WEIGHTS, edit_in_place, put_blob, put_snapshot, tree


def test_all_files_are_on_the_disk_before_one_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    there, synced, fsync = put_blob(store, b"old"), list[set[str]](), os.fsync
    datas = [b"old", *(b"%d" % number for number in range(20))]
    partials = [open_partial(store, hashlib.sha256(data).hexdigest(), 3) for data in datas]
    for one, data in zip(partials, datas, strict=True):
        os.write(one.descriptor, data)

    def noted(descriptor: int) -> None:
        synced.append(tree(store.blobs))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    written = [Blob(one.path.stem, len(data)) for one, data in zip(partials, datas, strict=True)]
    store_blobs(store, list(zip(partials, written, strict=True)))
    assert synced == [{f"{there.sha256[:2]}/{there.sha256}"}] * 21
    assert [store.blob(blob.sha256).read_bytes() for blob in written] == datas
    for one in partials:
        one.close()
    assert not any(store.partials.iterdir())


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "copies where there are none"])
def test_a_snapshot_is_plain_read_only_files(store: Store, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    snapshot = put_snapshot(store, NESTED)
    assert snapshot.directory == store.root / "snapshots" / "sha256" / snapshot.digest
    assert tree(snapshot.directory) == NESTED.keys()
    for path, data in NESTED.items():
        status = (snapshot.directory / path).stat(follow_symlinks=False)
        assert (snapshot.directory / path).read_bytes() == data
        assert status.st_mode == stat.S_IFREG | 0o444
        assert os.path.samestat(status, store.blob(hashlib.sha256(data).hexdigest()).stat()) == links
    assert find_snapshot(store, snapshot.files) == snapshot


def test_an_edit_is_noticed_and_nothing_of_it_used_and_a_copied_cache_is_hashed_once(store: Store) -> None:
    snapshot = put_snapshot(store, NESTED)
    edit_in_place(snapshot.directory / WEIGHTS)
    assert find_snapshot(store, snapshot.files) is None
    assert not snapshot.directory.exists()
    assert not has_blob(store, snapshot.files[WEIGHTS])
    config = store.blob(snapshot.files[CONFIG].sha256)
    os.utime(config)
    assert has_blob(store, snapshot.files[CONFIG])
    assert config.stat().st_mtime_ns == BLOB_MTIME_NS


def test_a_blob_that_is_gone_is_said_so_and_nothing_half_is_left(store: Store) -> None:
    files = {path: put_blob(store, data) for path, data in NESTED.items()}
    store.blob(files[CONFIG].sha256).unlink()
    with pytest.raises(LostBlob):
        publish_snapshot(store, files)
    assert not any(store.snapshots.iterdir())


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "here/a", "../x", "a/../../x", "a//b", "a/", "", "./a", "a\0b", "a\nb", "\udcff", "x" * 300],
)
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


@pytest.mark.parametrize("there", ["more", WEIGHTS, "link"])
def test_to_replaces_nothing_of_others(store: Store, tmp_path: Path, there: str) -> None:
    snapshot, out = put_snapshot(store, NESTED), tmp_path / "out" / "sql"
    out.parent.mkdir()
    if there == "link":
        out.symlink_to(store.root)
    else:
        materialize(store, put_snapshot(store, {**NESTED, there: b"other"}), out)
    before = tree(out.parent)
    with pytest.raises(UsageError, match="exists, with other content"):
        materialize(store, snapshot, out)
    assert tree(out.parent) == before


def test_what_was_published_is_replaced_also_where_the_system_cannot_exchange_two_folders(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "sql"
    for number in range(3):
        materialize(store, put_snapshot(store, {**NESTED, WEIGHTS: b"%d" % number}), out, publish=True)
        assert (out / WEIGHTS).read_bytes() == b"%d" % number
        if number:
            monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: None)
    assert [path.name for path in out.parent.iterdir()] == ["sql"]
