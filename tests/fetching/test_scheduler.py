"""How far away an origin is, as its reads tell, and what follows for how many threads there are."""

import os
import threading
import time
from pathlib import Path

import pytest

from lora_cli.fetching.download import download
from lora_cli.fetching.scheduler import ENOUGH, FAR_S, SLOW_BYTES_PER_S, SMALL, Distance, WorkerThreads
from tests.fetching.downloading import MIB, WEIGHTS, context_of, job_of
from tests.fetching.scripted import Scripted


def looked(*reads: tuple[int, float]) -> Distance:
    distance = Distance()
    for count, seconds in reads:
        distance.saw(count, seconds)
    return distance


def test_nothing_is_known_before_there_were_enough_reads() -> None:
    assert looked(*[(0, 2 * FAR_S)] * (ENOUGH - 1)).far is None
    assert looked(*[(0, 2 * FAR_S)] * ENOUGH).far is True
    assert looked(*[(0, FAR_S / 2)] * ENOUGH).far is False


def test_one_quick_answer_among_slow_ones_says_that_the_machine_is_busy() -> None:
    assert looked((0, 1.0), (0, 1.0), (0, FAR_S / 2), (0, 1.0)).far is False
    assert looked((0, 1.0), (0, 1.0), (0, 1.0), (0, FAR_S / 2)).far is False


def test_connections_that_carry_little_are_far_however_soon_they_answer() -> None:
    seconds = SMALL / SLOW_BYTES_PER_S
    assert looked(*[(0, FAR_S / 2)] * ENOUGH, *[(SMALL, 2 * seconds)] * ENOUGH).far is True
    assert looked((SMALL, seconds / 2), *[(SMALL, 2 * seconds)] * ENOUGH).far is False


def test_how_long_a_small_file_takes_says_nothing_of_the_connection() -> None:
    assert looked(*[(0, FAR_S / 2)] * ENOUGH, *[(SMALL - 1, 60.0)] * ENOUGH).far is False


def test_the_answers_of_an_origin_far_away_are_noticed_while_it_is_read(tmp_path: Path) -> None:
    source = Scripted({WEIGHTS: os.urandom(20 * MIB)}, before=lambda path, start: time.sleep(2 * FAR_S))
    with context_of(tmp_path, jobs=8) as context:
        download(job_of(source, context))
        assert context.scheduler.distance.far is True


@pytest.mark.parametrize(("asked", "started"), [(0, 0), (2, 2), (9, 4)])
def test_there_are_never_more_threads_than_there_may_be(asked: int, started: int) -> None:
    over, running = threading.Event(), list[str]()

    def work() -> None:
        running.append(threading.current_thread().name)
        over.wait(10)

    threads = WorkerThreads(work, "range", 4)
    threads.at_least(asked)
    threads.at_least(asked)
    over.set()
    threads.join(10)
    assert sorted(running) == [f"range-{number}" for number in range(started)]
