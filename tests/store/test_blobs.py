"""Blobs are what their names say, or they are not used."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_cli.core.snapshot import Blob
from lora_cli.errors import MachineError
from lora_cli.store import Store
from lora_cli.store.blobs import BLOB_MTIME_NS, LostBlob, has_blob, store_blobs
from lora_cli.store.disk import on_disk, replace_file, write_file
from lora_cli.store.partials import open_partial
from tests.store.keeping import edit_in_place, put_blob, tree


def test_an_edit_in_place_is_noticed_and_the_blob_removed(store: Store) -> None:
    blob = put_blob(store, b"hello")
    edit_in_place(store.blob(blob.sha256))
    assert not has_blob(store, blob)
    assert tree(store.root) == set()


def test_a_copied_cache_with_new_times_is_hashed_once_and_then_trusted(store: Store) -> None:
    blob = put_blob(store, b"hello")
    os.utime(store.blob(blob.sha256))
    assert has_blob(store, blob)
    assert store.blob(blob.sha256).stat().st_mtime_ns == BLOB_MTIME_NS


def test_all_files_are_on_the_disk_before_one_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    datas = [b"%d" % number for number in range(20)]
    partials = [(open_partial(store, hashlib.sha256(data).hexdigest(), 2), data) for data in datas]
    written = [(one.path, one.descriptor, Blob(one.path.stem, len(data))) for one, data in partials]
    there = put_blob(store, b"old")
    synced, real = list[set[str]](), os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(tree(store.blobs))
        real(descriptor)

    for one, data in partials:
        os.write(one.descriptor, data)
    old = open_partial(store, there.sha256, 3)
    monkeypatch.setattr(os, "fsync", fsync)
    inode = store.blob(there.sha256).stat().st_ino
    store_blobs(store, [*written, (old.path, old.descriptor, there)])
    assert synced == [{f"{there.sha256[:2]}/{there.sha256}"}] * len(datas)
    assert [store.blob(blob.sha256).read_bytes() for _, _, blob in written] == datas
    assert store.blob(there.sha256).stat().st_ino == inode
    for one in (*(one for one, _ in partials), old):
        one.close()
    assert not any(store.partials.iterdir())


def test_a_partial_that_somebody_took_away_is_not_kept(store: Store) -> None:
    blob = Blob("a" * 64, 5)
    partial = open_partial(store, blob.sha256, 5)
    partial.path.rename(partial.path.with_name("taken"))
    with pytest.raises(LostBlob):
        store_blobs(store, [(partial.path, partial.descriptor, blob)])
    partial.path.write_bytes(b"other")
    with pytest.raises(LostBlob):
        store_blobs(store, [(partial.path, partial.descriptor, blob)])
    assert not store.blobs.exists()
    partial.close()


def test_an_error_of_the_disk_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="No space left") as full, on_disk("writing", tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert "cache gc" in full.value.hint
    with pytest.raises(MachineError, match="Read-only") as forbidden, on_disk("writing", tmp_path / "x"):
        raise OSError(30, "Read-only file system")
    assert f"uid {os.geteuid()}" in forbidden.value.hint
    assert "mode 700" in forbidden.value.hint


def test_a_small_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(path, b"newer")
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_file_that_a_person_names_is_written_where_its_link_leads_and_a_pipe_as_it_is(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(file)
    write_file(link, "é")
    assert (link.is_symlink(), file.read_bytes()) == (True, "é".encode())
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        write_file(pipe, b"all")
        assert read.result() == b"all"
    with pytest.raises(FileNotFoundError) as missing:
        write_file(tmp_path / "nowhere" / "file", b"")
    assert missing.value.filename == str(tmp_path / "nowhere" / "file")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link", "pipe"]
