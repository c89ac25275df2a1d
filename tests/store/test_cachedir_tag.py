"""The tag of a cache: what has none is never cleaned, and what is tagged keeps what is not ours."""

import os

import pytest

from lora_cli.errors import UsageError
from lora_cli.store import TAG, Store
from lora_cli.store.gc import Retention, collect, remove
from lora_cli.store.inventory import inventory, verify
from tests.store.keeping import SQL, put_blob, put_snapshot, tree

FOREIGN = {
    "blobs/sha256/README",
    "blobs/sha256/ab/README",
    "leases/run-1",
    "locks/notes.txt",
    "refs/.draft",
    "snapshots/sha256/mine/essay.txt",
    "tmp/mine/thesis.txt",
    f"tmp/{'0' * 64}/thesis.txt",
}


def lay(store: Store) -> None:
    """Files of somebody else's in each of our folders, all of them older than anything is kept."""
    for name in FOREIGN:
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_text("mine")
        os.utime(store.root / name, (1, 1))
        os.utime((store.root / name).parent, (1, 1))


def test_the_first_thing_that_is_written_tags_the_cache_as_the_specification_says(store: Store) -> None:
    (store.root / "lost+found").mkdir(parents=True)  # a new volume
    put_blob(store, b"x")
    assert store.is_cache()
    assert (store.root / TAG).read_bytes()[:43] == b"Signature: 8a477f597d28d172789f06886806bc55"


@pytest.mark.parametrize("another", [False, True])
def test_a_folder_that_holds_something_else_is_never_tagged_nor_cleaned(store: Store, another: bool) -> None:
    lay(store)
    if another:
        (store.root / TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n# created by cargo\n")
    for clean in (
        lambda: collect(store, Retention(grace_s=-1)),
        lambda: list(verify(store)),
        lambda: remove(store, [], everything=True),
    ):
        with pytest.raises(UsageError, match="not a cache of lora-cli"):
            clean()
    assert tree(store.root) == FOREIGN
    put_blob(store, b"x")
    assert not store.is_cache()


def test_in_a_cache_what_is_not_ours_stays(store: Store) -> None:
    snapshot = put_snapshot(store, SQL)
    lay(store)
    assert not any(one.problem for one in verify(store))
    assert remove(store, inventory(store))[0].name == snapshot.digest
    collect(store, Retention(grace_s=-1))
    assert tree(store.root) == FOREIGN
