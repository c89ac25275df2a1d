"""Verifying and sweeping a cache: everything rotten is found, nothing that is used, new or somebody else's goes."""

import fcntl
import os
from pathlib import Path

import pytest

from lora_cli.errors import UsageError
from lora_cli.store import TAG, Store, gc
from lora_cli.store.disk import opened, remove_path
from lora_cli.store.gc import Removed, Retention, collect, remove
from lora_cli.store.inventory import inventory, verify
from lora_cli.store.snapshots import BLOB_MTIME_NS, find_snapshot, open_partial
from tests.store.keeping import CHAT, CONFIG, SQL, WEIGHTS, edit_in_place, put_blob, put_snapshot, tree


def swept(store: Store, **retention: float) -> list[Removed]:
    """What goes. A dry run says the same before, and removes nothing."""
    before = tree(store.root)
    said = collect(store, Retention(**retention), dry_run=True)
    assert tree(store.root) == before
    assert collect(store, Retention(**retention)) == said
    assert not any(one.problem for one in verify(store))
    return said


@pytest.mark.parametrize("harm", ["an edit that hides its time", "missing", "extra", "blob"])
def test_what_has_other_files_or_bytes_than_its_name_says_is_found_and_removed(store: Store, harm: str) -> None:
    snapshot, other = put_snapshot(store, SQL), put_snapshot(store, CHAT)
    weights, blob = snapshot.directory / WEIGHTS, store.blob(snapshot.files[WEIGHTS].sha256)
    if harm == "missing":
        weights.unlink()
    elif harm == "extra":
        (snapshot.directory / "extra").write_bytes(b"")
    elif harm == "blob":
        blob.rename(blob.with_name("0" * 64))
    else:
        edit_in_place(weights)
        os.utime(weights, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))
        assert find_snapshot(store, snapshot.files) == snapshot
    rotten = [one for one in verify(store) if one.problem]
    assert [one.kind for one in rotten] == {"a": ["blob", "snapshot"], "b": ["blob"]}.get(harm[0], ["snapshot"])
    assert all(one.removed and not one.path.exists() for one in rotten)
    assert (find_snapshot(store, snapshot.files) is None) == (harm != "blob")
    assert find_snapshot(store, other.files) == other
    assert not any(one.problem for one in verify(store))


def test_what_is_new_or_has_a_reference_stays_and_the_rest_goes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, gone = put_snapshot(store, SQL, ref="hf://org/sql"), put_snapshot(store, CHAT)
    orphan = put_blob(store, b"orphan")
    assert swept(store) == []
    most = gc.cache_bytes(store) - 1
    taken = {one.name for one in collect(store, Retention(max_bytes=most), dry_run=True)}
    assert gone.digest not in taken, "it may be about to be used"
    monkeypatch.setattr(gc, "MOMENT_S", -1)
    pressed = collect(store, Retention(max_bytes=most), dry_run=True)
    assert {one.name for one in pressed if one.kind in {"snapshot", "reference"}} == {gone.digest}
    removed = swept(store, grace_s=-1)
    assert {(one.name, one.bytes) for one in removed if one.bytes} == {(gone.digest, 12), (orphan.sha256, 6)}
    assert sorted(one.kind for one in removed) == ["blob", "blob", "snapshot"]
    assert find_snapshot(store, kept.files) == kept
    assert swept(store, unused_for_s=-1, grace_s=-1)
    assert tree(store.root) == set()


def test_what_the_dead_left_long_ago_goes_and_what_the_living_write_stays(store: Store) -> None:
    young, old, written = ("1" * 64, "2" * 64, "0" * 64)
    mine = open_partial(store, written, 1 << 30)
    for key in (young, old):
        open_partial(store, key, 1 << 30).close(keep=True)
    building, abandoned = (store.partials / (digit * 12) for digit in "ab")
    for path in (building / CONFIG, abandoned / CONFIG):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    for path in (store.root, *store.root.rglob("*")):
        if path.name != f"{young}.part":
            os.utime(path, (1, 1))
    with opened(building) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert {one.kind for one in collect(store, Retention(grace_s=-1))} == {"partial"}
    assert tree(store.root) == {f"tmp/{written}.part", f"tmp/{young}.part", f"tmp/{building.name}/{CONFIG}"}
    mine.close()
    remove_path(put_snapshot(store, SQL, ref="hf://org/sql", used_s=1).directory)
    assert {"reference", "blob"} <= {one.kind for one in collect(store, Retention(grace_s=-1))}
    assert collect(store, Retention(grace_s=-1)) == []


def test_what_is_linked_outside_stays_and_rm_counts_nothing_of_it(store: Store, tmp_path: Path) -> None:
    published = put_snapshot(store, SQL, ref="hf://org/sql", used_s=1)
    (tmp_path / "out").hardlink_to(published.directory / WEIGHTS)
    assert swept(store, unused_for_s=60, max_bytes=0, grace_s=-1) == []
    sizes = {one.kind: one.bytes for one in remove(store, inventory(store), everything=True)}
    assert sizes == {"reference": 0, "snapshot": len(b"{}"), "blob": 0}
    assert tree(store.root) == set()


FOREIGN = {"blobs/sha256/ab/README", "locks/notes.txt", "refs/.draft", "snapshots/sha256/mine/essay.txt", "tmp/a/b.txt"}


@pytest.mark.parametrize("tag", ["", "Signature: 8a477f597d28d172789f06886806bc55\n# created by cargo\n", "ours"])
def test_what_is_not_ours_stays_and_a_folder_without_our_tag_is_never_cleaned(store: Store, tag: str) -> None:
    snapshot = put_snapshot(store, SQL) if tag == "ours" else None
    for path in map(store.root.joinpath, FOREIGN):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (1, 1))
        os.utime(path.parent, (1, 1))
    if snapshot is not None:
        assert (store.root / TAG).read_bytes()[:43] == b"Signature: 8a477f597d28d172789f06886806bc55"
        assert not any(one.problem for one in verify(store))
        assert remove(store, inventory(store))[0].name == snapshot.digest
        collect(store, Retention(grace_s=-1))
    else:
        (store.root / (TAG if tag else "notes.txt")).write_text(tag)
        put_blob(store, b"x")
        with pytest.raises(UsageError, match="not a cache of lora-cli"):
            collect(store, Retention(grace_s=-1))
        with pytest.raises(UsageError, match="not a cache of lora-cli"):
            remove(store, [], everything=True)
    assert tree(store.root) >= FOREIGN
