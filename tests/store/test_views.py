"""Views by name: what an engine's resolver finds is one adapter, whole, or none."""

import os
import sys
import threading
from pathlib import Path

import pytest

from lora_cli.errors import MachineError
from lora_cli.store import Store
from lora_cli.store.export import write_view
from lora_cli.store.garbage_collection import Retention, collect, remove
from lora_cli.store.inventory import find_items, inventory, view_digests
from lora_cli.store.verify import verify
from tests.store.keeping import edit_in_place, put_snapshot, tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SQL = {CONFIG: b'{"r": 1}', WEIGHTS: b"sql weights"}
CHAT = {CONFIG: b'{"r": 2}', WEIGHTS: b"chat weights", "README.md": b"chat"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def content(view: Path) -> dict[str, bytes]:
    return {path.relative_to(view).as_posix(): path.read_bytes() for path in view.rglob("*") if not path.is_dir()}


def test_a_view_has_weights_as_hard_links_and_the_rest_as_copies_and_no_symlinks(store: Store) -> None:
    snapshot = put_snapshot(store, SQL)
    view = write_view(store, "sql", snapshot)
    assert view == store.root / "adapters" / "sql"
    assert content(view) == SQL
    assert (view / WEIGHTS).samefile(snapshot.directory / WEIGHTS)
    assert not (view / CONFIG).samefile(snapshot.directory / CONFIG)
    assert not any(path.is_symlink() for path in (view, *view.rglob("*")))
    assert not list(store.partials.iterdir())


def test_a_view_that_is_right_is_left_alone(store: Store) -> None:
    snapshot = put_snapshot(store, SQL)
    view = write_view(store, "sql", snapshot)
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (view, *sorted(view.rglob("*")))]
    write_view(store, "sql", snapshot)
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (view, *sorted(view.rglob("*")))] == before


@pytest.mark.parametrize("system", [sys.platform, "one that cannot swap"])
def test_another_snapshot_replaces_all_of_it(store: Store, system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = write_view(store, "sql", put_snapshot(store, CHAT))
    (view / "left over").write_bytes(b"x")
    snapshot = put_snapshot(store, SQL)
    monkeypatch.setattr(sys, "platform", system)
    write_view(store, "sql", snapshot)
    assert content(view) == SQL
    assert not list(store.partials.iterdir())


@pytest.mark.parametrize("harm", ["edited", "missing", "extra", "file", "link"])
def test_what_somebody_did_to_a_view_is_made_good(store: Store, harm: str) -> None:
    snapshot = put_snapshot(store, SQL)
    view = write_view(store, "sql", snapshot)
    if harm == "edited":
        (view / CONFIG).write_bytes(b'{"r": 9}')
    if harm == "missing":
        (view / WEIGHTS).unlink()
    if harm == "extra":
        (view / "extra").write_bytes(b"")
    if harm in {"file", "link"}:
        view.rename(store.root / "elsewhere")
        view.write_bytes(b"") if harm == "file" else view.symlink_to(snapshot.directory)
    assert [one.kind for one in verify(store) if one.problem] == ["view"]
    write_view(store, "sql", snapshot)
    assert not view.is_symlink()
    assert content(view) == SQL


@pytest.mark.slow
def test_a_reader_never_sees_a_mixture_and_never_nothing(store: Store) -> None:
    snapshots = [put_snapshot(store, SQL), put_snapshot(store, CHAT)]
    view = write_view(store, "sql", snapshots[0])
    wrong: list[object] = []
    done = threading.Event()

    def read(folder: int, path: str) -> bytes:
        descriptor = os.open(path, os.O_RDONLY, dir_fd=folder)
        try:
            return os.read(descriptor, 100)
        finally:
            os.close(descriptor)

    def look() -> None:
        while not done.is_set():
            try:
                folder = os.open(view, os.O_RDONLY)
            except FileNotFoundError as error:
                wrong.append(error)
                continue
            try:
                found = read(folder, CONFIG), read(folder, WEIGHTS)
                if found not in {(files[CONFIG], files[WEIGHTS]) for files in (SQL, CHAT)}:
                    wrong.append(found)
            except FileNotFoundError:
                pass  # The folder was replaced meanwhile, and is being removed.
            finally:
                os.close(folder)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(100):
        write_view(store, "sql", snapshots[number % 2])
    done.set()
    reader.join()
    assert wrong == []


def test_many_who_keep_the_same_view_leave_one_whole(store: Store) -> None:
    snapshots = [put_snapshot(store, SQL), put_snapshot(store, CHAT)]
    failed: list[BaseException] = []

    def keep(number: int) -> None:
        try:
            for round_ in range(10):
                write_view(store, "sql", snapshots[(number + round_) % 2])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert content(store.adapters / "sql") in (SQL, CHAT)
    assert not [path for path in store.partials.rglob("*") if path.is_file()]


def test_what_has_a_view_is_used_whatever_the_limits_are(store: Store) -> None:
    sql = put_snapshot(store, SQL, ref="hf://org/sql", used_s=1000)
    chat = put_snapshot(store, CHAT, ref="hf://org/chat", used_s=2000)
    bare = put_snapshot(store, {CONFIG: b"{}"})
    write_view(store, "sql", sql)
    write_view(store, "bare", bare)
    removed = collect(store, Retention(unused_for_s=60, max_bytes=0, grace_s=-1))
    assert {one.name for one in removed if one.kind == "snapshot"} == {chat.digest}
    assert {item.digest for item in inventory(store)} == {sql.digest, bare.digest}
    assert not any(one.problem for one in verify(store))


def test_the_bytes_of_views_are_the_first_that_count(store: Store) -> None:
    sql = put_snapshot(store, SQL, ref="hf://org/sql", used_s=1000)
    chat = put_snapshot(store, CHAT, ref="hf://org/chat", used_s=2000)
    write_view(store, "sql", sql)
    removed = collect(store, Retention(max_bytes=chat.size))
    assert [one.name for one in removed if one.kind == "reference"] == ["hf://org/chat"]


def test_removing_a_snapshot_removes_its_views_and_no_others(store: Store) -> None:
    sql = put_snapshot(store, SQL, ref="hf://org/sql")
    write_view(store, "sql", sql)
    write_view(store, "sql-too", sql)
    write_view(store, "chat", put_snapshot(store, CHAT, ref="hf://org/chat"))
    (items,) = [find_items(inventory(store), "sql-too", "")]
    removed = remove(store, items)
    assert [(one.kind, one.name) for one in removed if one.kind == "view"] == [("view", "sql"), ("view", "sql-too")]
    assert view_digests(store).keys() == {"chat"}
    assert not store.blob(sql.files[WEIGHTS].sha256).exists()
    remove(store, inventory(store))
    assert tree(store.root) == set()


def test_rot_is_found_in_a_view_too(store: Store) -> None:
    snapshot = put_snapshot(store, SQL)
    view = write_view(store, "sql", snapshot)
    assert [one.kind for one in verify(store)] == ["blob", "blob", "snapshot", "view"]
    edit_in_place(view / WEIGHTS)
    rotten = [one for one in verify(store) if one.problem]
    assert [one.kind for one in rotten] == ["blob", "snapshot", "view"]
    assert not view.exists()


def test_a_folder_that_is_a_file_is_said_to_be_one(store: Store) -> None:
    snapshot = put_snapshot(store, SQL)
    store.adapters.write_bytes(b"")
    with pytest.raises(MachineError, match="adapters"):
        write_view(store, "sql", snapshot)
