"""What an operator limits: the disk, the cache's budget, and time."""

import os
import threading
import time
from pathlib import Path

import pytest

from lora_cli.errors import MachineError, Refused
from lora_cli.fetching.batch import Outcome
from lora_cli.fetching.download import Downloads
from lora_cli.fetching.pipeline import Deadline
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.gc import cache_bytes
from lora_cli.store.inventory import inventory
from lora_cli.store.materialize import materialize
from lora_cli.store.records import record_path
from tests.fetching.desk import CONFIG, MIB, WEIGHTS, Desk, content, partials
from tests.hub_server import Hub
from tests.processes import wait

pytestmark = pytest.mark.slow

A, B, C, D = (f"org/{name}" for name in "abcd")
TWO, THREE = 2 * MIB + MIB // 2, 3 * MIB + MIB // 2
"""Budgets that two and three of them fit in."""


@pytest.fixture
def desk(tmp_path: Path, hub: Hub) -> Desk:
    """A Hub with adapters of 1 MiB."""
    for name in (A, B, C, D):
        hub.add(name, {CONFIG: {"name": name}, WEIGHTS: os.urandom(MIB)})
    return Desk(tmp_path, hub)


def codes(desk: Desk, *names: str, **settings: object) -> list[int]:
    return [outcome.exit_code for outcome in desk.ask(*names, **settings)]


def cached(desk: Desk) -> list[str]:
    found = {record.ref for item in inventory(desk.store) for record in item.records}
    return sorted(ref.removeprefix("hf://") for ref in found if "@" not in ref)


def used(desk: Desk, *names: str) -> None:
    """Says that they were last used in this order, long ago."""
    for item in inventory(desk.store):
        for record in item.records:
            for at_s, name in enumerate(names, 1000):
                if name in record.ref:
                    os.utime(record_path(desk.store, *record.key), (at_s, at_s))


def error_of(outcome: Outcome) -> str:
    assert outcome.error is not None
    return f"{outcome.error.message} {outcome.error.hint}"


@pytest.mark.parametrize("budget", [None, 10])
def test_the_adapters_of_a_run_share_disk_and_budget_and_what_is_refused_or_written_counts_no_more(
    tmp_path: Path, budget: int | None
) -> None:
    status, settings = os.statvfs(tmp_path), Settings(tmp_path, keep_free=0, cache_budget=budget)
    most = status.f_bavail * status.f_frsize * 6 // 10 if budget is None else 6
    room, a, b = Downloads(Store(tmp_path), settings), Deadline("a", settings), Deadline("b", settings)
    with room.reserve(a, most):
        said = pytest.raises(MachineError if budget is None else Refused, match="reserved for other adapters")
        with said, room.reserve(b, most):
            pass
        room.left[a] -= most
        with room.reserve(b, most):
            pass


def test_a_budget_makes_room_by_what_was_not_used_for_longest_and_takes_nothing_that_is_in_use(
    desk: Desk, tmp_path: Path
) -> None:
    assert codes(desk, A, B) == [0, 0]
    used(desk, B, A)
    assert codes(desk, C, cache_budget=TWO) == [0]
    assert cached(desk) == [A, C]
    assert cache_bytes(desk.store) <= TWO
    for outcome in desk.ask(A, B):
        assert outcome.fetched is not None
        materialize(desk.store, outcome.fetched.snapshot, tmp_path / "out" / outcome.request.name)
    used(desk, A, B, C)
    assert codes(desk, D, cache_budget=THREE) == [0]
    assert cached(desk) == [A, B, D]
    (outcome,) = desk.ask(C, cache_budget=TWO)
    assert outcome.exit_code == 1
    assert "LORA_CLI_CACHE_BUDGET" in error_of(outcome)
    assert (tmp_path / "out" / B / WEIGHTS).is_file()
    assert desk.is_sound


def test_an_adapter_that_takes_too_long_is_given_up_and_gone_on_with(desk: Desk) -> None:
    desk.hub.add("org/slow", {CONFIG: {}, WEIGHTS: (weights := os.urandom(3 * MIB))})
    desk.hub.fault("GET cdn .*", stall_at=2 * MIB, stall_s=40, times=1)
    desk.hub.fault(f"/api/models/{A}", delay_s=40, times=-1)
    began = time.monotonic()
    listing, outcome, other = desk.ask(A, "org/slow", "org/none", adapter_timeout_s=3.0, timeout_s=40, jobs=1)
    assert time.monotonic() - began < 30
    assert (listing.exit_code, outcome.exit_code, other.exit_code) == (4, 4, 3)
    assert "not complete after 3 s" in error_of(outcome)
    assert "LORA_CLI_ADAPTER_TIMEOUT" in error_of(outcome)
    assert MIB <= max(path.stat().st_size for path in partials(desk.store.root)) <= 2 * MIB
    assert content(desk.bring("org/slow"))[WEIGHTS] == weights


def test_whoever_waits_for_another_process_waits_no_longer_than_an_adapter_may_take(desk: Desk) -> None:
    desk.hub.fault("GET cdn .*", delay_s=3, times=1)
    slow = threading.Thread(target=codes, args=(desk, A))
    slow.start()
    wait(lambda: any(desk.store.locks.glob("*")), "the other")
    began = time.monotonic()
    assert codes(desk, A, adapter_timeout_s=0.5) == [4]
    assert time.monotonic() - began < 2.4
    slow.join()
