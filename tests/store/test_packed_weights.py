"""Packed weights: found only as they were published, made anew otherwise, and gone with their snapshot."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save_file

from lora_cli.core.safetensors import TensorInfo, header_length, parse_header
from lora_cli.core.snapshot import Snapshot
from lora_cli.store import Store
from lora_cli.store.garbage_collection import Retention, collect, remove
from lora_cli.store.inventory import inventory
from lora_cli.store.packed_weights import find_packed, packed_file, publish_packed
from lora_cli.store.verify import verify
from tests.making import lora_tensors, safetensors_bytes
from tests.store.keeping import edit_in_place, put_snapshot, tree

MODULES = {"model.layers.1.q_proj": (5, 3), "model.layers.0.q_proj": (64, 64), "model.layers.0.k_proj": (7, 9)}
WEIGHTS = safetensors_bytes(lora_tensors(MODULES, r=3))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def snapshot(store: Store) -> Snapshot:
    return put_snapshot(store, {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": b"{}"}, "file:///a")


def wanted() -> list[TensorInfo]:
    """The tensors of the snapshot's weights."""
    header = parse_header(WEIGHTS[8 : 8 + header_length(WEIGHTS, None, "w")], len(WEIGHTS), "adapter_model.safetensors")
    return list(header.tensors.values())


def write(path: Path, metadata: Mapping[str, str]) -> None:
    save_file(load(WEIGHTS), path, dict(metadata))


def publish(store: Store, digest: str) -> bool:
    return publish_packed(store, digest, wanted(), write)


def published(store: Store, snapshot: Snapshot) -> Path:
    assert publish(store, snapshot.digest)
    return packed_file(store, snapshot.digest)


def test_the_bytes_are_the_snapshots(store: Store, snapshot: Snapshot) -> None:
    data = published(store, snapshot).read_bytes()
    found = find_packed(store, snapshot.digest, wanted())
    assert found is not None
    for one in wanted():
        there = found[one.name]
        assert (there.dtype, there.shape) == (one.dtype, one.shape)
        assert data[there.start : there.stop] == WEIGHTS[one.start : one.stop]


def spoil(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "longer":
        with path.open("ab") as file:
            file.write(b"\0")
    elif how == "edited":
        edit_in_place(path, path.stat().st_size - 200)
    elif how == "a link":
        path.rename(path.with_name("other"))
        path.symlink_to("other")
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()
        os.mkfifo(path)


SPOILT = ("gone", "truncated", "empty", "longer", "edited", "a link", "a folder", "a FIFO")


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_as_it_was_published_is_not_found_and_made_anew(how: str, store: Store, snapshot: Snapshot) -> None:
    path = published(store, snapshot)
    path.chmod(0o644)
    spoil(path, how)
    assert find_packed(store, snapshot.digest, wanted()) is None
    path = published(store, snapshot)
    assert find_packed(store, snapshot.digest, wanted()) is not None
    assert not list(store.partials.glob("*"))


def test_another_snapshots_another_dtypes_and_another_shapes_are_not_found(store: Store, snapshot: Snapshot) -> None:
    path = published(store, snapshot)
    other = store.packed / ("0" * 64)
    path.parent.rename(other)
    assert find_packed(store, other.name, wanted()) is None
    other.rename(path.parent)
    first = wanted()[0]
    for changed in (
        TensorInfo(first.name, "I32", first.shape, first.start, first.stop, first.file),
        TensorInfo(first.name, first.dtype, first.shape[::-1], first.start, first.stop, first.file),
        TensorInfo("other", first.dtype, first.shape, first.start, first.stop, first.file),
    ):
        assert find_packed(store, snapshot.digest, [changed]) is None


def test_where_the_cache_may_not_be_written_nothing_is_packed(
    store: Store, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> int:
        raise OSError(30, "Read-only file system")

    before = tree(store.root)
    monkeypatch.setattr(os, "mkdir", read_only)
    assert not publish(store, snapshot.digest)
    assert tree(store.root) == before


def test_a_full_disk_leaves_no_half_of_it(store: Store, snapshot: Snapshot) -> None:
    before = tree(store.root)

    def full(path: Path, _: Mapping[str, str]) -> None:
        path.write_bytes(WEIGHTS[:100])
        raise OSError(28, "No space left on device")

    assert not publish_packed(store, snapshot.digest, wanted(), full)
    assert tree(store.root) == before


def test_verify_holds_each_byte_against_the_snapshot(store: Store, snapshot: Snapshot) -> None:
    path = published(store, snapshot)
    said = {one.kind: one for one in verify(store)}
    assert said["packed"].problem == ""
    assert said["packed"].size == path.stat().st_size
    times = path.stat().st_mtime_ns
    edit_in_place(path, path.stat().st_size - 200)
    os.utime(path, ns=(times, times))  # as a disk rots
    said = {one.kind: one for one in verify(store)}
    assert "differs from the snapshot" in said["packed"].problem
    assert said["packed"].moved_to is not None
    assert not path.exists()


@pytest.mark.parametrize("sources", ['{"x": 1}', "[]", "nonsense", '{"%s": ["../../../etc/passwd", 0, 8, false]}'])
def test_verify_looks_at_no_other_file(sources: str, store: Store, snapshot: Snapshot) -> None:
    path = published(store, snapshot)
    name = wanted()[0].name
    metadata = {"format": "lora_cli/packed/4", "snapshot": snapshot.digest, "sources": sources.replace("%s", name)}
    path.chmod(0o644)
    path.write_bytes(safetensors_bytes({name: np.zeros(2, np.float32)}, metadata))
    assert [one.kind for one in verify(store) if one.problem] == ["packed"]


def test_its_bytes_count_and_go_with_the_snapshot(store: Store, snapshot: Snapshot) -> None:
    size = published(store, snapshot).stat().st_size
    (item,) = inventory(store)
    assert item.packed_bytes == size
    removed = remove(store, [item])
    assert [(one.kind, one.bytes) for one in removed if one.kind == "packed"] == [("packed", size)]
    assert tree(store.root) == set()


def test_gc_takes_what_belongs_to_no_snapshot_and_packed_weights_before_references(
    store: Store, snapshot: Snapshot
) -> None:
    published(store, snapshot)
    other = put_snapshot(store, {"adapter_model.safetensors": WEIGHTS, "x": b"1"}, "file:///b", used_s=time.time() - 99)
    published(store, other)
    assert publish(store, "0" * 64)
    (store.packed / "mine").mkdir()
    assert [(one.kind, one.name) for one in collect(store, Retention(), dry_run=True)] == [
        ("packed", f"packed/{'0' * 64}")
    ]
    collect(store, Retention())
    assert {path.name for path in store.packed.iterdir()} == {snapshot.digest, other.digest, "mine"}
    blobs = sum(path.stat().st_size for path in store.blobs.rglob("*") if path.is_file())
    size = packed_file(store, other.digest).stat().st_size
    collect(store, Retention(max_bytes=blobs + size))
    assert {path.name for path in store.packed.iterdir()} == {snapshot.digest, "mine"}
    assert len(inventory(store)) == 2
    collect(store, Retention(max_bytes=blobs))
    assert {path.name for path in store.packed.iterdir()} == {"mine"}
    assert len(inventory(store)) == 2


KILLED = """
import sys
from lora_cli.store import Store
from tests.store.test_packed_weights import publish
store, digest = Store(__import__("pathlib").Path(sys.argv[1])), sys.argv[2]
print("begun", flush=True)
while True:
    publish(store, digest)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_nothing_wrong(store: Store, snapshot: Snapshot) -> None:
    for attempt in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(store.root), snapshot.digest], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.003 * attempt)
            process.send_signal(signal.SIGKILL)
        assert [one.problem for one in verify(store) if one.problem] == []
    assert publish(store, snapshot.digest)
    assert find_packed(store, snapshot.digest, wanted()) is not None
    for folder in store.partials.glob("*"):
        for left in folder.iterdir():
            os.utime(left, (1, 1))
    collect(store, Retention())
    assert json.dumps(sorted(tree(store.root))).count("factors") == 1
