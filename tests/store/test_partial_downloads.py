"""Partial downloads: claimed from the dead by one, never from the living, and never shared."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.store import Store
from lora_cli.store.partial_downloads import Partial, open_partial, release_partial, remove_partial
from lora_cli.store.writer_ids import Writer, let_go, new_writer, parse_writer, state

KEY = "k" * 64

WRITE_AND_WAIT = """
import os, sys
from pathlib import Path
from unittest.mock import Mock
from lora_cli.store import Store
from lora_cli.store.partial_downloads import open_partial
partial = open_partial(Store(Path(sys.argv[1])), sys.argv[2], 1 << 30)
os.pwrite(partial.descriptor, sys.argv[3].encode(), 0)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@contextmanager
def another_process_writes(store: Store, text: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(store.root), KEY, text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def content(partial: Partial) -> bytes:
    return os.pread(partial.descriptor, 1 << 20, 0)


def left_by(store: Store, writer: Writer, data: bytes, age_s: float = 0) -> Path:
    path = store.partials / KEY / str(writer)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_what_a_killed_process_left_is_taken_over_in_place(store: Store) -> None:
    with another_process_writes(store, "half of it") as process:
        (path,) = (store.partials / KEY).iterdir()
        inode = path.stat().st_ino
        process.kill()
        process.wait()
    partial = open_partial(store, KEY, 100)
    assert (content(partial), partial.size) == (b"half of it", 10)
    assert os.fstat(partial.descriptor).st_ino == inode
    assert list((store.partials / KEY).iterdir()) == [partial.path]
    remove_partial(partial)
    assert not list(store.partials.iterdir())


def test_a_zombie_is_dead(store: Store) -> None:
    with another_process_writes(store, "half") as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        partial = open_partial(store, KEY, 100)
    assert content(partial) == b"half"
    remove_partial(partial)


def test_what_a_living_process_writes_is_left_alone(store: Store) -> None:
    with another_process_writes(store, "half of it"):
        partial = open_partial(store, KEY, 100)
        assert partial.size == 0
        assert len(list((store.partials / KEY).iterdir())) == 2
        remove_partial(partial)


def test_what_a_living_process_writes_is_left_alone_however_long_it_is_silent(store: Store) -> None:
    with another_process_writes(store, "half of it"):
        (path,) = (store.partials / KEY).iterdir()
        os.utime(path, (1, 1))
        partial = open_partial(store, KEY, 100)
        assert partial.size == 0
        assert path.exists()
        remove_partial(partial)


def test_the_longest_one_is_taken_and_the_others_are_removed(store: Store) -> None:
    for size in (3, 9, 0, 5):
        left_by(store, let_go(new_writer()), b"x" * size)
    partial = open_partial(store, KEY, 100)
    assert partial.size == 9
    assert len(list((store.partials / KEY).iterdir())) == 1
    remove_partial(partial)


def test_one_that_is_longer_than_the_file_is_not_gone_on_with(store: Store) -> None:
    left_by(store, let_go(new_writer()), b"x" * 101)
    partial = open_partial(store, KEY, 100)
    assert partial.size == 0
    assert len(list((store.partials / KEY).iterdir())) == 1
    remove_partial(partial)


def test_what_is_left_on_purpose_is_taken_by_the_same_process(store: Store) -> None:
    partial = open_partial(store, KEY, 100)
    os.pwrite(partial.descriptor, b"half", 0)
    release_partial(partial)
    again = open_partial(store, KEY, 100)
    assert content(again) == b"half"
    remove_partial(again)


ELSEWHERE = Writer("0123456789ab", 1, 1, "0" * 12)


def test_a_file_of_another_machine_that_still_grows_is_left_alone(store: Store) -> None:
    left_by(store, ELSEWHERE, b"half", age_s=60)
    partial = open_partial(store, KEY, 100)
    assert partial.size == 0
    remove_partial(partial)


def test_a_file_of_another_machine_is_copied_because_its_writer_may_wake_up(store: Store) -> None:
    path = left_by(store, ELSEWHERE, b"half", age_s=100_000)
    with path.open("r+b") as sleeper:
        partial = open_partial(store, KEY, 100)
        assert content(partial) == b"half"
        sleeper.write(b"BAD!")
        sleeper.flush()
        assert content(partial) == b"half"
    assert not path.exists()
    remove_partial(partial)


def test_what_another_machine_left_is_not_gone_on_with_where_no_digest_would_tell_that_it_is_wrong(
    store: Store,
) -> None:
    """Its power may have gone before all bytes were on the disk: then there are zeros where they should be."""
    left_by(store, Writer("0" * 12, 1, 1, "0" * 12), b"half", age_s=10_000)
    partial = open_partial(store, KEY, 1 << 30, digest_known=False)
    assert content(partial) == b""
    remove_partial(partial)


def test_what_a_dead_process_of_this_boot_left_is_gone_on_with_without_a_digest(store: Store) -> None:
    left_by(store, let_go(new_writer()), b"half")
    partial = open_partial(store, KEY, 1 << 30, digest_known=False)
    assert content(partial) == b"half"
    remove_partial(partial)


def test_a_name_says_who_writes() -> None:
    writer = new_writer()
    assert parse_writer(str(writer)) == writer
    assert state(writer) == "alive"
    assert state(let_go(writer)) == "dead"
    assert state(ELSEWHERE) == "elsewhere"
    assert parse_writer("README.md") is None


def test_a_recycled_process_id_is_not_taken_for_the_writer() -> None:
    writer = new_writer()
    assert state(Writer(writer.place, writer.pid, writer.started + 1, writer.token)) == "dead"
    assert state(Writer(writer.place, 4_000_000_000, 1, writer.token)) == "dead"


def test_a_process_of_which_the_system_tells_nothing_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = new_writer()
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError))
    assert (state(writer), new_writer().started) == ("alive", 0)
