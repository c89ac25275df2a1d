"""The tag of a cache: what has none is never cleaned, and what is tagged keeps what is not ours."""

import os
from pathlib import Path

import pytest

from lora_cli.errors import MachineError, UsageError
from lora_cli.store import TAG, Store
from lora_cli.store.gc import Retention, collect, remove
from lora_cli.store.inventory import inventory
from lora_cli.store.verify import verify
from tests.store.keeping import put_blob, put_snapshot, tree

FOREIGN = (
    "blobs/README",
    "blobs/sha256/README",
    "blobs/sha256/ab/README",
    "leases/run-1",
    "locks/notes.txt",
    "refs/.draft",
    "snapshots/sha256/mine/essay.txt",
    "tmp/mine/thesis.txt",
    f"tmp/{'0' * 64}/thesis.txt",
)


def lay(root: Path) -> None:
    """Files of somebody else's in each of our folders, all of them older than anything is kept."""
    for name in FOREIGN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
        os.utime(root / name, (1, 1))
        os.utime((root / name).parent, (1, 1))


def test_the_first_thing_that_is_written_tags_the_cache_as_the_specification_says(store: Store) -> None:
    assert not store.is_cache()
    put_blob(store, b"x")
    assert store.is_cache()
    assert (store.root / TAG).read_bytes()[:43] == b"Signature: 8a477f597d28d172789f06886806bc55"


def test_a_folder_that_holds_something_else_is_never_tagged_nor_cleaned(store: Store) -> None:
    lay(store.root)
    before = tree(store.root)
    for clean in (
        lambda: collect(store, Retention(grace_s=-1)),
        lambda: list(verify(store)),
        lambda: remove(store, []),
    ):
        with pytest.raises(UsageError, match="not a cache of lora-cli") as refused:
            clean()
        assert "--cache-dir" in refused.value.hint
    assert tree(store.root) == before
    put_blob(store, b"x")
    assert not store.is_cache()


def test_the_tag_of_another_program_is_not_ours(store: Store) -> None:
    put_blob(store, b"x")
    tag = store.root / TAG
    tag.write_bytes(tag.read_bytes().replace(b"lora-cli", b"cargo"))
    with pytest.raises(UsageError):
        list(verify(store))


def test_in_a_cache_what_is_not_ours_stays(store: Store) -> None:
    snapshot = put_snapshot(store, {"adapter_config.json": b"{}"})
    lay(store.root)
    assert not any(one.problem for one in verify(store))
    assert remove(store, inventory(store))[0].name == snapshot.digest
    collect(store, Retention(grace_s=-1))
    assert set(FOREIGN) <= tree(store.root)
    assert not store.snapshot(snapshot.digest).exists()


def test_a_new_volume_is_empty_although_the_file_system_put_a_folder_there(store: Store) -> None:
    (store.root / "lost+found").mkdir(parents=True)
    put_blob(store, b"x")
    assert store.is_cache()


def test_a_cache_is_no_file(store: Store) -> None:
    store.root.write_text("mine")
    with pytest.raises(MachineError, match="the cache is a file"):
        store.check_folder()
