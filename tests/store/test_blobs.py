"""Blobs are what their names say, or they are not used."""

import hashlib
import os

import pytest

from lora_cli.refs.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.snapshots import BLOB_MTIME_NS, LostBlob, has_blob, open_partial, store_blobs
from tests.store.keeping import put_blob, tree


def test_a_copied_cache_with_new_times_is_hashed_once_and_then_trusted(store: Store) -> None:
    blob = put_blob(store, b"hello")
    os.utime(store.blob(blob.sha256))
    assert has_blob(store, blob)
    assert store.blob(blob.sha256).stat().st_mtime_ns == BLOB_MTIME_NS


def test_all_files_are_on_the_disk_before_one_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    there, synced, fsync = put_blob(store, b"old"), list[set[str]](), os.fsync
    path, inode = store.blob(there.sha256), store.blob(there.sha256).stat().st_ino
    datas = [b"old", *(b"%d" % number for number in range(20))]
    partials = [open_partial(store, hashlib.sha256(data).hexdigest(), 3) for data in datas]
    for one, data in zip(partials, datas, strict=True):
        os.write(one.descriptor, data)

    def noted(descriptor: int) -> None:
        synced.append(tree(store.blobs))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    written = [Blob(one.path.stem, len(data)) for one, data in zip(partials, datas, strict=True)]
    store_blobs(store, [(one.path, one.descriptor, blob) for one, blob in zip(partials, written, strict=True)])
    assert synced == [{f"{there.sha256[:2]}/{there.sha256}"}] * 21
    assert [store.blob(blob.sha256).read_bytes() for blob in written] == datas
    assert path.stat().st_ino == inode
    for one in partials:
        one.close()
    assert not any(store.partials.iterdir())


def test_a_partial_that_somebody_took_away_is_not_kept(store: Store) -> None:
    blob = Blob("a" * 64, 5)
    partial = open_partial(store, blob.sha256, 5)
    partial.path.rename(partial.path.with_name("taken"))
    with pytest.raises(LostBlob):
        store_blobs(store, [(partial.path, partial.descriptor, blob)])
    partial.path.write_bytes(b"other")
    store_blobs(store, [(partial.path, partial.descriptor, blob)])
    assert not has_blob(store, blob)
    partial.close()
