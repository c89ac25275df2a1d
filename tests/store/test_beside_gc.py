"""A user beside those who take snapshots away, at every single step of theirs: what he was told to have stays there."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lora_cli.core.snapshot import Snapshot
from lora_cli.store import Store, garbage_collection
from lora_cli.store.garbage_collection import Retention, collect
from lora_cli.store.in_use import InUseMarker
from lora_cli.store.leases import lease
from lora_cli.store.resolution_records import read_record
from lora_cli.store.snapshots import find_snapshot
from lora_cli.store.verify import verify
from tests.store.keeping import put_snapshot

pytestmark = pytest.mark.slow

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
ALL = Retention(unused_for_s=-1, grace_s=-1)
"""Everything is old."""

WAITS_S = 0.005
"""So long a step waits for the user, who may have to wait for that step."""

TAKING = {"_remove_snapshot", "remove_folder", "_delete", "remove_path", "rmtree", "_rmtree_safe_fd"}
SWEEPING = {"_remove_snapshots", "_newly_referenced", "_remove_snapshot", "is_used", "_used_since", "names_in_use"}
FINDING = {"find_snapshot", "_remove_unless_sound", "is_intact", "remove_if_corrupt"}
VERIFYING = {"_verify_snapshot", "_verify_one", "remove_if_corrupt"}


@contextmanager
def at_each_step(functions: set[str], step: Callable[[], object]) -> Iterator[None]:
    """Calls ``step`` before each line of these functions that this thread runs."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_name not in functions:
            return None
        if event == "line":
            step()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class User:
    """Uses a snapshot from the step ``comes`` on, after he published it if it ``goes`` at a step before.

    ``missed`` are the steps at which he was not given what he was told to have.
    """

    def __init__(self, store: Store, snapshot: Snapshot, comes: int, goes: int = 0) -> None:
        self.step, self.has, self.missed = 0, False, list[int]()
        self._comes, self._goes, self._snapshot, self._store = comes, goes, snapshot, store
        self._told, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._use, daemon=True)

    def next(self) -> None:
        self.step += 1
        if self.step == self._goes:
            collect(self._store, Retention(unused_for_s=-1))
        if self.step == self._comes:
            self._thread.start()
            self._told.wait(WAITS_S)
        if self.has and not all((self._snapshot.directory / path).is_file() for path in FILES):
            self.missed.append(self.step)

    def _use(self) -> None:
        if self._goes:
            put_snapshot(self._store, FILES)
        with InUseMarker(self._store) as hold:
            self.has = hold.add_snapshot(self._snapshot.digest)
            self._told.set()
            self._done.wait(10)

    def end(self) -> None:
        if self.step >= self._comes:
            assert self._told.wait(10)
            self._done.set()
            self._thread.join()


def test_what_a_user_was_told_to_have_is_there_at_every_step_of_gc(tmp_path: Path) -> None:
    store = Store(tmp_path)
    missed, had = {}, set()
    comes, steps = 1, 1
    while comes <= steps:
        user = User(store, put_snapshot(store, FILES, "hf://org/a"), comes)
        with at_each_step(SWEEPING, user.next):
            collect(store, ALL)
        user.end()
        missed[comes] = user.missed
        had.add(user.has)
        comes, steps = comes + 1, user.step
    assert not any(missed.values()), missed
    # Before he came it may have been taken away.
    assert had == {True, False}


@pytest.mark.parametrize(
    ("functions", "look"),
    [
        (FINDING, lambda store, snapshot: find_snapshot(store, snapshot.files)),
        (VERIFYING, lambda store, snapshot: list(verify(store))),
    ],
    ids=["find", "verify"],
)
def test_what_went_while_it_was_looked_at_and_came_again_is_not_taken_for_rotten(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    functions: set[str],
    look: Callable[[Store, Snapshot], object],
) -> None:
    monkeypatch.setattr(garbage_collection, "LEASE_S", 0)
    store = Store(tmp_path)
    missed, had, steps = {}, 0, 1
    goes = comes = 1
    while goes <= steps:
        snapshot = put_snapshot(store, FILES, "hf://org/a")
        user = User(store, snapshot, comes, goes)
        with at_each_step(functions, user.next):
            look(store, snapshot)
        user.end()
        missed[goes, comes] = user.missed
        had += user.has
        steps = max(steps, user.step)
        goes, comes = (goes, comes + 1) if comes < user.step else (goes + 1, goes + 1)
    assert not any(missed.values()), missed
    assert had > 10


def test_two_that_clean_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    store, at, step = Store(tmp_path), 1, 1

    def another() -> None:
        nonlocal step
        step += 1
        if step == at:
            collect(store, ALL)

    while at <= step:
        step = 0
        put_snapshot(store, FILES, "hf://org/a")
        with at_each_step(TAKING, another):
            collect(store, ALL)
        assert not any(path.is_file() for path in store.snapshots.rglob("*"))
        at += 1
    assert at > 10


def test_gc_leaves_what_another_one_is_looking_at_and_needs_no_lease_where_none_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage_collection, "LEASE_S", 0)
    store = Store(tmp_path)
    snapshot = put_snapshot(store, FILES, "hf://org/a")
    with lease(store, snapshot.digest, 0) as ours:
        assert ours
        assert collect(store, ALL) == []
        assert snapshot.directory.is_dir()
    # It is left as it was, with what means it.
    assert read_record(store, "hf://org/a", "") is not None
    store.leases.rmdir()
    # As on a full disk: nothing can be written there.
    store.leases.write_bytes(b"")
    collect(store, ALL)
    assert not snapshot.directory.exists()
    assert not any(store.blobs.rglob("*/*"))
