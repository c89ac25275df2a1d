"""Verifying and sweeping a cache: everything rotten is found, nothing that is used goes."""

import os
import time
from pathlib import Path

import pytest

from lora_cli.store import Store
from lora_cli.store.blobs import BLOB_MTIME_NS
from lora_cli.store.gc import Removed, Retention, collect, remove
from lora_cli.store.inventory import find_items, inventory
from lora_cli.store.locks import exclusive
from lora_cli.store.partials import open_partial
from lora_cli.store.records import read_record, record_path
from lora_cli.store.snapshots import find_snapshot
from lora_cli.store.verify import verify
from tests.store.keeping import edit_in_place, put_blob, put_snapshot, tree

NOW = Retention(grace_s=-1)
SQL = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"sql weights"}
KEY, YOUNG, OLD = "0" * 64, "1" * 64, "2" * 64
CONFIG, LONG_AGO = "adapter_config.json", f"{'0' * 12}.1.1.{'0' * 12}"
CHAT = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"chat weights"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def names(removed: list[Removed]) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in removed]


def test_a_sound_cache_verifies(store: Store) -> None:
    put_snapshot(store, SQL)
    found = list(verify(store))
    assert [one.kind for one in found] == ["blob", "blob", "snapshot"]
    assert not any(one.problem for one in found)


def test_an_edit_that_hides_its_time_is_found_and_fetched_anew(store: Store) -> None:
    snapshot = put_snapshot(store, SQL)
    other = put_snapshot(store, CHAT)
    weights = snapshot.directory / "adapter_model.safetensors"
    edit_in_place(weights)
    os.utime(weights, ns=(BLOB_MTIME_NS, BLOB_MTIME_NS))
    assert find_snapshot(store, snapshot.files) == snapshot
    rotten = [one for one in verify(store) if one.problem]
    assert [one.kind for one in rotten] == ["blob", "snapshot"]
    assert all(one.removed and not one.path.exists() for one in rotten)
    assert find_snapshot(store, snapshot.files) is None
    assert find_snapshot(store, other.files) == other
    assert not any(one.problem for one in verify(store))


@pytest.mark.parametrize("harm", ["missing", "extra", "renamed"])
def test_a_snapshot_with_other_files_than_its_digest_says_is_rotten(store: Store, harm: str) -> None:
    directory = put_snapshot(store, SQL).directory
    config = directory / "adapter_config.json"
    if harm == "extra":
        (directory / "extra").write_bytes(b"")
    else:
        config.rename(directory / "renamed") if harm == "renamed" else config.unlink()
    assert [one.kind for one in verify(store) if one.problem] == ["snapshot"]
    assert not directory.exists()


def test_a_blob_under_a_wrong_name_is_rotten(store: Store) -> None:
    blob = put_blob(store, b"x")
    store.blob(blob.sha256).rename(store.blob(blob.sha256).with_name("0" * 64))
    assert [one.problem for one in verify(store)] == [f"its bytes have the sha256 {blob.sha256}"]


def test_an_empty_or_missing_cache_verifies_and_sweeps(store: Store) -> None:
    assert list(verify(store)) == []
    assert collect(store, NOW) == []
    assert inventory(store) == []


def test_what_a_reference_means_stays_and_the_rest_goes(store: Store) -> None:
    kept = put_snapshot(store, SQL, ref="hf://org/sql")
    gone = put_snapshot(store, CHAT)
    orphan = put_blob(store, b"orphan")
    removed = collect(store, NOW)
    assert set(names(removed)) == {
        ("snapshot", gone.digest),
        ("blob", gone.files["adapter_model.safetensors"].sha256),
        ("blob", orphan.sha256),
    }
    assert sum(one.bytes for one in removed) == len(b"chat weights") + len(b"orphan")
    assert find_snapshot(store, kept.files) == kept
    assert not any(one.problem for one in verify(store))


def test_what_is_new_stays_because_somebody_is_about_to_name_it(store: Store) -> None:
    put_snapshot(store, CHAT)
    put_blob(store, b"orphan")
    before = tree(store.root)
    assert collect(store, Retention()) == []
    assert tree(store.root) == before


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store) -> None:
    put_snapshot(store, SQL, ref="hf://org/sql", used_s=1)
    put_snapshot(store, CHAT)
    before = tree(store.root)
    said = collect(store, Retention(unused_for_s=60, grace_s=-1), dry_run=True)
    assert tree(store.root) == before
    assert collect(store, Retention(unused_for_s=60, grace_s=-1)) == said
    assert tree(store.root) == set()


def test_what_was_not_used_for_long_goes_even_when_it_is_named(store: Store) -> None:
    old = put_snapshot(store, SQL, ref="hf://org/sql", used_s=time.time() - 1000)
    new = put_snapshot(store, CHAT, ref="hf://org/chat")
    removed = collect(store, Retention(unused_for_s=500))
    assert ("reference", "hf://org/sql") in names(removed)
    assert ("snapshot", old.digest) in names(removed)
    assert read_record(store, "hf://org/sql") is None
    assert find_snapshot(store, new.files) == new


def test_a_size_keeps_the_last_used_and_counts_shared_bytes_once(store: Store) -> None:
    put_snapshot(store, SQL, ref="hf://org/sql", used_s=1000)
    put_snapshot(store, CHAT, ref="hf://org/chat", used_s=2000)
    put_snapshot(store, {"adapter_config.json": b"{}"}, ref="hf://org/config", used_s=3000)
    assert collect(store, Retention(max_bytes=len(b"{}chat weightssql weights"))) == []
    removed = collect(store, Retention(max_bytes=len(b"{}chat weights")))
    assert [one.name for one in removed if one.kind == "reference"] == ["hf://org/sql"]
    assert [one.kind for one in removed] == ["reference", "snapshot", "blob"]


def test_what_the_dead_left_long_ago_goes_and_what_the_living_write_stays(store: Store) -> None:
    mine = open_partial(store, KEY, 1 << 30)
    for key in (YOUNG, OLD):
        open_partial(store, key, 1 << 30).close(keep=True)
    building, abandoned = (store.partials / (digit * 12) for digit in "ab")
    earlier = [f"tmp/{OLD}/{LONG_AGO}", f"tmp/{LONG_AGO}", f"leases/run-{LONG_AGO}", f"leases/{KEY}"]
    for path in (building / CONFIG, abandoned / CONFIG, *map(store.root.joinpath, earlier)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    for path in (store.root, *store.root.rglob("*")):
        if path.name != f"{YOUNG}.part":
            os.utime(path, (1, 1))
    with exclusive(store, building.name):
        assert {one.kind for one in collect(store, NOW)} == {"partial"}
    left = {f"tmp/{KEY}.part", f"tmp/{YOUNG}.part", f"tmp/{building.name}/{CONFIG}"}
    assert (tree(store.root), (store.root / "leases").exists()) == (left, False)
    mine.close()


def test_a_reference_to_what_is_lost_goes(store: Store) -> None:
    snapshot = put_snapshot(store, SQL, ref="hf://org/sql")
    snapshot.directory.rename(store.root / "elsewhere")
    assert ("reference", "hf://org/sql") in names(collect(store, NOW))


def test_a_snapshot_is_removed_with_all_that_means_it_and_what_only_it_has(store: Store) -> None:
    sql = put_snapshot(store, SQL, ref="hf://org/sql")
    put_snapshot(store, SQL, ref="hf://org/sql@main")
    chat = put_snapshot(store, CHAT, ref="hf://org/chat")
    orphan = put_blob(store, b"somebody is fetching this")
    remove(store, find_items(inventory(store), "", "hf://org/sql"))
    assert [item.digest for item in inventory(store)] == [chat.digest]
    assert not record_path(store, "hf://org/sql@main").exists()
    assert not store.blob(sql.files["adapter_model.safetensors"].sha256).exists()
    assert store.blob(orphan.sha256).exists()
    assert not any(one.problem for one in verify(store))


def test_snapshots_are_named_by_reference_or_by_the_beginning_of_a_digest(store: Store) -> None:
    sql = put_snapshot(store, SQL, ref="hf://org/sql")
    items = inventory(store)
    assert [item.digest for item in find_items(items, sql.digest[:8], "")] == [sql.digest]
    assert find_items(items, sql.digest[:7], "") == []
    assert [item.digest for item in find_items(items, "org/sql", "hf://org/sql")] == [sql.digest]
