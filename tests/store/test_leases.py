"""A lease saves work; it never stands in the way for long."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lora_cli.store import Store, leases
from lora_cli.store.leases import lease

HOLD = """
import sys
from pathlib import Path
from lora_cli.store import Store
from lora_cli.store.leases import lease
with lease(Store(Path(sys.argv[1])), "key", 1) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def holder(store: Store) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(store.root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_a_free_lease_is_held_and_given_back(store: Store) -> None:
    with lease(store, "key", 1) as held:
        assert held
        assert (store.leases / "key").exists()
    assert not (store.leases / "key").exists()


def test_a_living_owner_is_waited_for(store: Store) -> None:
    process = holder(store)
    told: list[float] = []
    threading.Timer(0.2, lambda: process.communicate("")).start()
    began = time.monotonic()
    with lease(store, "key", 20, lambda: told.append(time.monotonic())) as held:
        assert held
        assert time.monotonic() - began >= 0.2
    process.wait()
    assert len(told) == 1


@pytest.mark.slow
def test_a_slow_owner_is_waited_for_with_a_bound(store: Store) -> None:
    process = holder(store)
    began = time.monotonic()
    with lease(store, "key", 0.2) as held:
        assert not held
    assert 0.2 <= time.monotonic() - began < 5
    assert (store.leases / "key").exists()
    process.communicate("")


@pytest.mark.slow
def test_a_dead_owners_lease_is_taken_over_at_once(store: Store) -> None:
    process = holder(store)
    process.kill()
    process.communicate()
    began = time.monotonic()
    with lease(store, "key", 20) as held:
        assert held
    assert time.monotonic() - began < 5


def test_an_owner_without_a_sign_of_life_is_taken_for_dead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "STALE_S", 0.2)
    store.leases.mkdir(parents=True)
    (store.leases / "key").write_text("0123456789ab.1.1.000000000000")
    with lease(store, "key", 20) as held:
        assert held


def test_an_owner_with_a_heartbeat_is_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(leases, "STALE_S", 0.4)
    with lease(store, "key", 1) as first, lease(store, "key", 1) as second:
        assert first
        assert not second


def test_threads_wait_for_each_other(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with lease(store, "key", 20) as held:
            assert held
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.01)
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_where_nothing_can_be_written_it_goes_on_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with lease(Store(tmp_path / "file"), "key", 5) as held:
        assert not held


def test_a_lease_that_was_taken_over_meanwhile_is_not_removed(store: Store) -> None:
    with lease(store, "key", 1):
        (store.leases / "key").write_text("somebody else")
    assert (store.leases / "key").read_text() == "somebody else"


def test_an_owner_that_was_taken_for_dead_keeps_no_other_lease_alive(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.01)
    with lease(store, "key", 1):
        path = store.leases / "key"
        path.unlink()
        path.write_text("somebody else")
        os.utime(path, (1, 1))
        time.sleep(0.1)
        assert path.stat().st_mtime == 1


FULL = """
import resource, signal, sys
from pathlib import Path
from lora_cli.store import Store
from lora_cli.store.leases import lease
store = Store(Path(sys.argv[1]))
store.leases.mkdir(parents=True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with lease(store, "key", 1) as held:
    print(held, sorted(path.name for path in store.leases.iterdir()))
"""


def test_on_a_full_disk_no_lease_is_left_without_a_name_for_others_to_wait_for(store: Store) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(store.root)], capture_output=True, text=True, check=False)
    assert done.stdout == "False []\n", done.stderr
