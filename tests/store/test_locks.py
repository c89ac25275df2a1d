"""Locks and partial files: between processes, with those that are killed, and where there are none."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.errors import MachineError
from lora_cli.store import InUse, Store
from lora_cli.store.disk import create
from lora_cli.store.gc import Retention, collect, remove
from lora_cli.store.inventory import inventory
from lora_cli.store.snapshots import open_partial
from tests.store.keeping import SQL, put_snapshot, tree

KEY = "0" * 64
ALL = Retention(unused_for_s=-1, grace_s=-1)
"""Everything is old."""

DO = """
import os, sys
from pathlib import Path
from lora_cli.store import InUse, Store
from lora_cli.store.snapshots import open_partial
store, key = Store(Path(sys.argv[1])), sys.argv[2]
{}
print("ready", flush=True)
sys.stdin.read()
"""
EXCLUSIVE = "lock = store.lock(key); assert lock.__enter__()"
WRITES = "partial = open_partial(store, key, 100); os.pwrite(partial.descriptor, b'half of it', 0)"
USES = "used = InUse(store); assert used.add(key)"


@contextmanager
def another(store: Store, what: str, key: str = KEY) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that does it, and then waits to be killed."""
    command = [sys.executable, "-c", DO.format(what), str(store.root), key]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_who_has_it_is_waited_for_until_it_is_killed_and_no_longer_than_allowed(store: Store) -> None:
    told: list[int] = []
    with another(store, EXCLUSIVE) as process:
        with store.lock(KEY, 0.1, lambda: told.append(1)) as held:
            assert held is False
        process.send_signal(signal.SIGSTOP)
        with store.lock(KEY) as held:
            assert held is False
        threading.Timer(0.2, process.kill).start()
        with store.lock(KEY, 60, lambda: told.append(2)) as held:
            assert held
    assert told == [1, 2]
    assert tree(store.root) == set()


def test_gc_leaves_what_is_used_until_its_last_user_is_gone_and_rm_does_not(store: Store) -> None:
    snapshot = put_snapshot(store, SQL, "hf://org/a")
    with another(store, USES, snapshot.digest), InUse(store) as used:
        assert used.add(snapshot.digest)
        assert collect(store, ALL) == []
        used.close()
        assert collect(store, ALL, dry_run=True) == collect(store, ALL) == []
        assert snapshot.directory.is_dir()
    assert collect(store, ALL)
    assert tree(store.root) == set()
    with InUse(store) as used:
        assert not used.add(snapshot.digest)
        assert used.add(put_snapshot(store, SQL, "hf://org/a").digest)
        remove(store, inventory(store))
        assert not used.add(snapshot.digest)


def test_more_are_used_than_files_may_be_open(store: Store) -> None:
    digests = [put_snapshot(store, {"a": str(number).encode()}, f"hf://org/{number}").digest for number in range(40)]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)); used = InUse(store)"
    with another(store, f"{limit}; assert all(used.add(one) for one in key.split())", " ".join(digests)):
        kinds = [one.kind for one in collect(store, ALL)]
    assert kinds.count("snapshot") == 15


def test_where_there_are_no_locks_gc_refuses_and_everything_else_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    snapshot = put_snapshot(store, SQL, "hf://org/a")
    with store.lock(KEY) as held, InUse(store) as used:
        assert held is None
        assert used.add(snapshot.digest)
    with pytest.raises(MachineError, match="no lock can be taken") as refused:
        collect(store, ALL)
    assert "cache rm" in refused.value.hint
    assert snapshot.directory.is_dir()
    one, other = (open_partial(store, KEY, 100) for _ in range(2))
    assert one.path != other.path
    for partial in (one, other):
        partial.close()
    remove(store, inventory(store), everything=True)
    assert not any(store.blobs.rglob("*/*"))


def test_what_a_killed_process_left_is_gone_on_with_in_place_and_what_a_living_one_writes_is_not(store: Store) -> None:
    with another(store, WRITES):
        (path,) = store.partials.iterdir()
        os.utime(path, (1, 1))
        partial = open_partial(store, KEY, 100)
        assert os.pread(partial.descriptor, 100, 0) == b""
        partial.close()
        assert list(store.partials.iterdir()) == [path]
    partial = open_partial(store, KEY, 100)
    assert (partial.path, partial.size, os.pread(partial.descriptor, 100, 0)) == (path, 10, b"half of it")
    partial.close()
    assert list(store.partials.iterdir()) == []


@pytest.mark.parametrize(
    ("longest", "digest_known", "age_s", "size"),
    [(4, True, 1e9, 4), (3, True, 0, 0), (4, False, 0, 4), (4, False, 1e9, 0)],
    ids=["fits", "too long", "of this boot", "a power failure may have lost bytes that no digest tells"],
)
def test_what_is_gone_on_with(store: Store, longest: int, digest_known: bool, age_s: float, size: int) -> None:
    partial = open_partial(store, KEY, 4)
    os.pwrite(partial.descriptor, b"half", 0)
    partial.close(keep=True)
    os.utime(partial.path, (time.time() - age_s, time.time() - age_s))
    again = open_partial(store, KEY, longest, digest_known=digest_known)
    assert (again.path, again.size, os.pread(again.descriptor, 100, 0)) == (partial.path, size, b"half"[:size])
    again.close()


def test_a_folder_that_another_process_makes_meanwhile_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", Mock(side_effect=[FileNotFoundError, 3]))
        assert create(tmp_path / "new", os.O_WRONLY) == 3
