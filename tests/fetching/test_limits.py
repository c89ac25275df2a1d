"""What an operator limits: files, bytes of one and of all, the disk, the cache's budget, and time."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.core.reference import parse
from lora_cli.core.request import Request
from lora_cli.errors import MachineError, Refused
from lora_cli.fetching.batch import Outcome, fetch_all
from lora_cli.fetching.disk_space import DiskSpace
from lora_cli.fetching.readers import RANGE
from lora_cli.settings import LARGEST_RESERVE, RESERVED_PART, Settings
from lora_cli.store import Store
from lora_cli.store.gc import cache_bytes
from lora_cli.store.inventory import inventory
from lora_cli.store.materialize import materialize
from lora_cli.store.records import record_path
from lora_cli.store.verify import verify
from tests.hub_server import Hub

pytestmark = pytest.mark.slow

MIB = 1 << 20
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Desk:
    """A cache, a Hub with adapters of 1 MiB, and the way to ask for several."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.hub = hub
        self.settings = Settings(root / "cache", hub_endpoint=hub.endpoint, retries=0, timeout_s=5, keep_free=0)
        self.store = Store(self.settings.cache_dir)
        for name in "abcd":
            hub.add(f"org/{name}", {CONFIG: {"name": name}, WEIGHTS: os.urandom(MIB)})

    def ask(self, *names: str, **settings: object) -> list[Outcome]:
        wanted = [Request(name, parse(f"org/{name}", is_path=lambda _: False)) for name in names]
        return list(fetch_all(wanted, self.store, replace(self.settings, **settings)))  # type: ignore[arg-type]

    def codes(self, *names: str, **settings: object) -> list[int]:
        return [outcome.exit_code for outcome in self.ask(*names, **settings)]

    @property
    def weights_requests(self) -> int:
        return self.hub.count("GET cdn")

    def cached(self) -> list[str]:
        found = {record.ref for item in inventory(self.store) for record in item.records}
        return sorted(ref.removeprefix("hf://org/") for ref in found if "@" not in ref)

    def used(self, name: str, at_s: float) -> None:
        """Says that an adapter was last used then."""
        for item in inventory(self.store):
            for record in item.records:
                if f"org/{name}" in record.ref:
                    os.utime(record_path(self.store, *record.key), (at_s, at_s))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Hub() as hub:
        yield Desk(tmp_path, hub)


def error_of(outcome: Outcome) -> str:
    assert outcome.error is not None
    return f"{outcome.error.message} {outcome.error.hint}"


def test_a_header_that_is_larger_than_allowed_is_refused_cached_or_not_and_not_read_by_validate(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    desk.hub.add("org/wide", {CONFIG: {}, WEIGHTS: (100_000).to_bytes(8, "little") + b"{}" + b" " * 99_998})
    for _ in ("cold", "warm"):
        (outcome,) = desk.ask("wide", max_header_bytes=99_999)
        assert outcome.exit_code == 1
        assert "claims a header of 100000 bytes, but 99999 are allowed" in error_of(outcome)
        assert "LORA_CLI_MAX_HEADER_BYTES" in error_of(outcome)
    assert desk.codes("wide", max_header_bytes=100_000) == [0]
    monkeypatch.setenv("HF_ENDPOINT", desk.hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("LORA_CLI_MAX_HEADER_BYTES", "99999")
    assert main(["fetch", "org/wide"]) == 1
    capsys.readouterr()
    assert main(["inspect", "org/wide"]) == 1
    assert "its header has 100000 bytes" in " ".join(capsys.readouterr().out.split())


def test_without_a_word_a_part_of_the_disk_stays_free(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    reserve = min(LARGEST_RESERVE, status.f_blocks * status.f_frsize // RESERVED_PART)
    free, room = status.f_bavail * status.f_frsize, DiskSpace(Store(tmp_path))
    with pytest.raises(MachineError), room.reserve("a", free - reserve // 2):
        pass
    with room.reserve("a", free - 2 * reserve):
        pass


def test_the_adapters_of_a_run_share_the_disk_and_what_is_written_counts_no_more(tmp_path: Path) -> None:
    status, room = os.statvfs(tmp_path), DiskSpace(Store(tmp_path), keep_free=0)
    most = status.f_bavail * status.f_frsize * 6 // 10
    with room.reserve("a", most) as reserved:
        with pytest.raises(MachineError, match="for other adapters"), room.reserve("b", most):
            pass
        reserved.left -= most
        with room.reserve("b", most):
            pass
    with room.reserve("b", most):
        pass


def test_a_budget_makes_room_by_what_was_not_used_for_longest(desk: Desk) -> None:
    assert desk.codes("a", "b") == [0, 0]
    desk.used("a", 2000)
    desk.used("b", 1000)
    budget = 2 * MIB + MIB // 2
    assert desk.codes("c", cache_budget=budget) == [0]
    assert desk.cached() == ["a", "c"]
    assert cache_bytes(desk.store) <= budget
    assert not any(one.problem for one in verify(desk.store))


def test_a_budget_takes_nothing_that_is_in_use(desk: Desk, tmp_path: Path) -> None:
    outcomes = desk.ask("a", "b", "c")
    found = {outcome.request.name: outcome.fetched.snapshot for outcome in outcomes if outcome.fetched is not None}
    for name in ("a", "b"):
        materialize(desk.store, found[name], tmp_path / f"out-{name}")
    for number, name in enumerate("abc"):
        desk.used(name, 1000 + number)
    assert desk.codes("d", cache_budget=3 * MIB + MIB // 2) == [0]
    assert desk.cached() == ["a", "b", "d"]
    (outcome,) = desk.ask("c", cache_budget=2 * MIB + MIB // 2)
    assert outcome.exit_code == 1
    assert "LORA_CLI_CACHE_BUDGET" in error_of(outcome)
    assert (tmp_path / "out-b" / WEIGHTS).is_file()


def test_the_adapters_of_one_run_do_not_drive_each_other_out(desk: Desk) -> None:
    outcomes = desk.ask("a", "b", "c", "d", cache_budget=2 * MIB + MIB // 2, jobs=1)
    assert sorted(outcome.exit_code for outcome in outcomes) == [0, 0, 1, 1]
    for outcome in outcomes:
        assert outcome.fetched is None or outcome.fetched.snapshot.directory.is_dir()


def test_an_adapter_that_takes_too_long_is_given_up_and_gone_on_with(desk: Desk) -> None:
    weights = os.urandom(3 * MIB)
    desk.hub.add("org/slow", {CONFIG: {}, WEIGHTS: weights})
    desk.hub.fault("GET cdn .*", stall_at=2 * MIB, stall_s=30, times=1)
    began = time.monotonic()
    outcome, other = desk.ask("slow", "none", adapter_timeout_s=1.0, timeout_s=20)
    assert time.monotonic() - began < 6
    assert (outcome.exit_code, other.exit_code) == (4, 3)
    assert "not complete after 1 s" in error_of(outcome)
    assert "LORA_CLI_ADAPTER_TIMEOUT" in error_of(outcome)
    kept = [path.stat().st_size for path in desk.store.partials.rglob("*") if path.is_file()]
    assert max(kept) == 2 * MIB
    (again,) = desk.ask("slow")
    assert again.fetched is not None
    assert (again.fetched.snapshot.directory / WEIGHTS).read_bytes() == weights


def test_many_that_hang_are_given_up_at_once(desk: Desk) -> None:
    names = [f"slow-{number}" for number in range(8)]
    for name in names:
        desk.hub.add(f"org/{name}", {CONFIG: {}, WEIGHTS: os.urandom(3 * MIB)})
    desk.hub.fault("GET cdn .*", stall_at=2 * MIB, stall_s=30, times=-1)
    began = time.monotonic()
    assert desk.codes(*names, adapter_timeout_s=1.0, timeout_s=20, jobs=8) == [4] * 8
    assert time.monotonic() - began < 5


def test_a_listing_that_hangs_is_given_up_in_time_and_the_others_go_on(desk: Desk) -> None:
    desk.hub.fault("/api/models/org/a", delay_s=15, times=-1)
    began = time.monotonic()
    assert desk.codes("a", "b", "c", adapter_timeout_s=0.5, timeout_s=20, jobs=1) == [4, 0, 0]
    assert time.monotonic() - began < 8


def test_whoever_waits_for_another_process_waits_no_longer_than_an_adapter_may_take(desk: Desk) -> None:
    desk.hub.fault("GET cdn .*", delay_s=3, times=1)
    import threading

    slow = threading.Thread(target=lambda: desk.codes("a"))
    slow.start()
    while not list(desk.store.locks.glob("*")):
        time.sleep(0.01)
    began = time.monotonic()
    assert desk.codes("a", adapter_timeout_s=0.5) == [4]
    assert time.monotonic() - began < 2.4
    slow.join()


def test_a_budget_is_shared_and_what_is_refused_leaves_nothing_reserved(desk: Desk) -> None:
    room = DiskSpace(desk.store, keep_free=0, budget=10)
    with pytest.raises(Refused, match="a: 11 B needed, the cache budget is 10 B"), room.reserve("a", 11):
        pass
    with room.reserve("a", 6), pytest.raises(Refused, match="6 B reserved for other adapters"), room.reserve("b", 6):
        pass
    with room.reserve("a", 10):
        pass


@pytest.mark.parametrize("after", [0, 2])
def test_a_server_that_knows_no_ranges_or_forgets_them_is_read_as_one_stream(desk: Desk, after: int) -> None:
    weights = os.urandom(30 * MIB)
    desk.hub.add("org/large", {CONFIG: {}, WEIGHTS: weights})
    desk.hub.fault("GET cdn", ignore_range=True, times=-1, after=after)
    (outcome,) = desk.ask("large", jobs=2)
    assert outcome.fetched is not None, error_of(outcome)
    assert (outcome.fetched.snapshot.directory / WEIGHTS).read_bytes() == weights
    # Not each of its ranges was asked for in vain.
    assert desk.weights_requests < -(-len(weights) // RANGE)


def test_only_tries_that_bring_nothing_count_and_a_cut_after_every_mebibyte_is_none(desk: Desk) -> None:
    weights = os.urandom(6 * MIB)
    desk.hub.add("org/cut", {CONFIG: {}, WEIGHTS: weights})
    desk.hub.fault("GET cdn", cut_at=MIB, times=-1)
    (outcome,) = desk.ask("cut", retries=1)
    assert outcome.fetched is not None, error_of(outcome)
    assert (outcome.fetched.snapshot.directory / WEIGHTS).read_bytes() == weights
    desk.hub.add("org/dead", {CONFIG: {}, WEIGHTS: os.urandom(6 * MIB)})
    desk.hub.faults.clear()
    desk.hub.fault("GET cdn", cut_at=0, times=-1)
    before = desk.weights_requests
    assert desk.codes("dead", retries=1, jobs=1) == [4]
    assert desk.weights_requests - before == 2
