"""The model of lora-cli's own server, by hand: which requests wait, which pass, and where each finds its adapter."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random

import pytest

from lora_cli.bench import server_model
from lora_cli.bench.link_model import Link, Links
from lora_cli.bench.report import LoadedAdapters
from lora_cli.bench.server_model import simulate_requests
from lora_cli.bench.simulator import CPU, DISK, GPU, Fleet
from lora_cli.bench.step_times import StepTimes
from lora_cli.bench.trace import Request, build_trace
from lora_cli.runtime import messages
from lora_cli.runtime.worker_process import LOADERS
from lora_cli.tiers.memory_accounting import Budget

MEASURED = Links(Link(17.0, None, "measured"), Link(3.0, None, "measured"), "", {"first": (200.0, 100.0, 300.0)})
SLOW = replace(MEASURED, steps=StepTimes({1: 100.0, 2: 150.0, 16: 200.0}))
"""A prompt of 16 tokens takes 0.2 s, and each further token 0.1 s: a request for three takes 0.4 s alone."""


def served(
    moments: Sequence[tuple[float, str]], links: Links, slots: int, *, tokens: int = 3, loaded: str = ""
) -> tuple[list[int], list[float]]:
    """Where each request found its adapter, and its stall in milliseconds; all places in memory are enough."""
    trace = build_trace([Request(time_s, name, 16, tokens) for time_s, name in moments])
    start = LoadedAdapters(tuple(loaded[:slots]), tuple(loaded), tuple(loaded))
    fleet = Fleet(dict.fromkeys("abcdefghij", 1), Budget(slots), Budget(10), links, start)
    run, stalls = simulate_requests(trace, fleet, "lru")
    return list(run.found), list(stalls)


def test_the_limits_are_those_of_the_server() -> None:
    assert (server_model.MAX_BATCH_SIZE, server_model.LOADERS) == (messages.MAX_BATCH_SIZE, LOADERS)


def test_an_adapter_holds_a_slot_during_its_first_load() -> None:
    found, stalls = served([(1, "b"), (1.1, "a"), (1.3, "a"), (9, "b")], MEASURED, 1, loaded="a")
    # At 1.2 a takes the slot, which it waited for longest, then b takes it back.
    assert found == [DISK, CPU, CPU, CPU]
    assert stalls == pytest.approx([200, 3, 3, 3]), "waiting in the queue is no load"


def test_who_finds_all_slots_kept_by_first_loads_waits_for_one_of_them() -> None:
    found, stalls = served([(1, "a"), (1.01, "b"), (1.02, "c"), (1.03, "c")], MEASURED, 2, loaded="c")
    assert found == [DISK, DISK, CPU, GPU]
    # The load of b ends at 1.11.
    assert stalls == pytest.approx([200, 100, 93, 0])


def test_a_third_first_load_takes_its_slot_when_one_of_two_loaders_is_free() -> None:
    moments = [(1, "a"), (1.01, "b"), (1.02, "c"), (1.05, "d"), (1.25, "d"), (1.9, "c"), (1.91, "d")]
    found, stalls = served(moments, MEASURED, 3, loaded="d")
    # The proofs of a and b end at 1.2 and 1.11: only then c takes the slot of b, and b that of d.
    assert found == [DISK, DISK, DISK, GPU, CPU, GPU, GPU]
    assert stalls == pytest.approx([200, 100, 300, 0, 3, 0, 0])


def test_a_first_load_that_gets_its_slot_late_ends_when_it_has_it() -> None:
    found, stalls = served([(1, "a"), (1.1, "b"), (1.15, "b")], SLOW, 1, loaded="a")
    # The load of b can end at 1.3, but a is generated until 1.4.
    assert found == [GPU, DISK, DISK]
    assert stalls == pytest.approx([0, 300, 250])


def test_who_waited_for_a_first_load_says_where_the_load_found_it() -> None:
    trace = build_trace([Request(1, "b", 16, 1)])
    start = LoadedAdapters(("a",), ("a", "b"), ("a",))
    fleet = Fleet(dict.fromkeys("ab", 1), Budget(1), Budget(2), MEASURED, start)
    assert list(simulate_requests(trace, fleet, "lru")[0].found) == [CPU]


def test_an_adapter_of_the_batch_keeps_its_slot_and_its_requests_pass_the_others() -> None:
    moments = [(1, "a"), (1.1, "b"), (1.2, "a"), (2.5, "b"), (2.6, "a")]
    found, _ = served(moments, SLOW, 1, loaded="ab")
    # b waits until both requests for a have ended.
    assert found == [GPU, CPU, GPU, GPU, CPU]
    at_once, _ = served(moments, MEASURED, 1, loaded="ab")
    assert at_once == [GPU, CPU, CPU, CPU, CPU], "without the times of steps a request ends at once"


def test_one_slot_is_left_to_first_loads() -> None:
    slow = replace(SLOW, loads_ms={"first": (3000.0,)})
    # c is loaded until 4: a and b take turns in the other slot.
    moments = [(1.0, "c"), (1.1, "a"), (1.2, "b"), (1.3, "a"), (2.3, "b")]
    found, _ = served(moments, slow, 2, loaded="ab")
    assert found == [DISK, CPU, CPU, GPU, GPU]


def test_at_most_eight_are_generated_at_once_and_eight_pass_the_oldest() -> None:
    many = [(1 + number / 1000, "a") for number in range(8)]
    # The ninth request for a waits for one of the eight, b for all of them.
    found, _ = served([*many, (1.1, "b"), (1.2, "a"), (60, "b")], SLOW, 1, loaded="ab", tokens=3)
    assert found[8:] == [CPU, GPU, GPU]
    steady = [(1 + number / 5, "a") for number in range(30)]
    found, _ = served(sorted([*steady, (1.3, "b")]), SLOW, 1, loaded="ab", tokens=3)
    # Of those after b eight pass it, and the next one must load a again.
    assert [place for place, tier in enumerate(found) if tier != GPU] == [2, 11]


def test_equal_steps_at_once_are_the_same_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(1)
    times_s = accumulate(random.expovariate(0.5) for _ in range(300))
    moments = [(time_s, random.choice("abcd")) for time_s in times_s]
    together = served(moments, SLOW, 2, tokens=20, loaded="ab")
    monkeypatch.setattr(server_model, "MOST_EQUAL_S", 0.0)
    assert served(moments, SLOW, 2, tokens=20, loaded="ab") == together
    assert 50 < together[0].count(GPU) < 250


@pytest.mark.slow
def test_without_the_times_of_steps_long_outputs_cost_nothing() -> None:
    began = time.process_time()
    found, _ = served([(number, "ab"[number % 2]) for number in range(100)], MEASURED, 1, tokens=10**8, loaded="ab")
    assert found == [GPU, *[CPU] * 99]
    assert time.process_time() - began < 5


def test_all_who_can_start_at_a_moment_do() -> None:
    moments = [(1, "a"), (1.1, "b"), (1.2, "b"), (2.2, "a"), (2.25, "b")]
    # Both requests for b start at 1.4 and end at 2.1: a has the slot when the third one comes.
    assert served(moments, SLOW, 1, loaded="ab")[0] == [GPU, CPU, GPU, CPU, CPU]


def test_requests_without_times_come_one_after_the_other() -> None:
    found, stalls = served([(0, "a"), (0, "a"), (0, "b")], SLOW, 1, loaded="b")
    assert found == [DISK, GPU, CPU]
    assert stalls == pytest.approx([200, 0, 3])
