"""Two at once in a store: what one has just put there, the other neither takes away nor trips over."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lora_cli.store import Store
from lora_cli.store.blobs import has_blob
from lora_cli.store.gc import remove
from lora_cli.store.inventory import inventory
from lora_cli.store.snapshots import find_snapshot
from lora_cli.store.verify import verify
from tests.store.keeping import put_blob, put_snapshot

pytestmark = pytest.mark.slow

SQL = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"sql weights"}
LONG_S = 0.7


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def at_once(*works: Callable[[], object]) -> None:
    """Runs each again and again in a thread of its own; the first error is raised here."""
    errors: list[BaseException] = []
    until = time.monotonic() + LONG_S

    def again(work: Callable[[], object]) -> None:
        try:
            while time.monotonic() < until and not errors:
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_blob_that_is_published_while_it_is_looked_for_is_not_taken_for_rotten(store: Store) -> None:
    blob = put_blob(store, b"weights")
    path, away = store.blob(blob.sha256), store.root / "away"

    def come_and_go() -> None:
        with suppress(FileNotFoundError):
            path.rename(away)
            away.rename(path)

    at_once(come_and_go, *[lambda: has_blob(store, blob)] * 3)
    assert has_blob(store, blob)


def test_a_snapshot_that_is_published_while_it_is_looked_for_is_not_taken_for_rotten(store: Store) -> None:
    snapshot = put_snapshot(store, SQL)
    away = store.root / "away"

    def come_and_go() -> None:
        with suppress(FileNotFoundError):
            snapshot.directory.rename(away)
            away.rename(snapshot.directory)

    at_once(come_and_go, *[lambda: find_snapshot(store, snapshot.files)] * 3)
    assert find_snapshot(store, snapshot.files) == snapshot


def test_verify_takes_nothing_for_rotten_that_is_published_or_cleaned_meanwhile(store: Store) -> None:
    sql = put_snapshot(store, SQL)

    def publish_and_clean() -> None:
        other = put_snapshot(store, {**SQL, "README.md": str(time.perf_counter_ns()).encode()})
        remove(store, [item for item in inventory(store) if item.digest == other.digest])

    def look() -> None:
        assert [one for one in verify(store) if one.problem] == []

    at_once(publish_and_clean, look, look)
    assert find_snapshot(store, sql.files) == sql
