"""Several at once in a store: what one has just put there, the others neither take away nor trip over."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from lora_cli.store import InUse, Store
from lora_cli.store.gc import Retention, collect, remove
from lora_cli.store.inventory import inventory, verify
from lora_cli.store.snapshots import LostBlob, find_snapshot, has_blob
from tests.store.keeping import SQL, put_snapshot

LONG_S = 0.7


def at_once(*works: Callable[[], object]) -> None:
    """Runs each again and again in a thread of its own; the first error is raised here."""
    errors: list[BaseException] = []
    until = time.monotonic() + LONG_S

    def again(work: Callable[[], object]) -> None:
        try:
            while time.monotonic() < until and not errors:
                with suppress(LostBlob):  # of which a fetch tries again
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


def test_what_is_put_there_anew_while_it_is_looked_for_is_not_taken_for_corrupt(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = put_snapshot(store, SQL)

    def come_and_go() -> None:
        remove(store, inventory(store))
        put_snapshot(store, SQL)

    def look() -> None:
        find_snapshot(store, snapshot.files)
        for blob in snapshot.files.values():
            has_blob(store, blob)
        assert [one for one in verify(store) if one.problem] == []

    at_once(come_and_go, look, look)
    assert caplog.messages == []
    assert put_snapshot(store, SQL) == snapshot


def test_two_that_clean_and_two_that_publish_do_not_disturb_each_other(store: Store) -> None:
    def publish() -> None:
        with InUse(store) as used:
            snapshot = put_snapshot(store, SQL, "hf://org/a")
            if used.add(snapshot.digest):
                for _ in range(20):
                    assert {path: (snapshot.directory / path).read_bytes() for path in SQL} == SQL

    cleans = [Retention(unused_for_s=-1), Retention(max_bytes=0)]
    at_once(*(lambda one=one: collect(store, one) for one in cleans), publish, publish)
