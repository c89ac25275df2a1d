"""How far away an origin is, as its reads tell, and what follows for how many threads there are."""

import threading
import time

import pytest

from lora_cli.fetching.crew import ENOUGH, FAR_S, SLOW_BYTES_PER_S, SMALL, WORTHWHILE, Crew, Distance, Look


def looked(*reads: tuple[int, float]) -> Distance:
    distance = Distance()
    for count, seconds in reads:
        distance.saw(count, seconds)
    return distance


def test_nothing_is_known_before_there_were_enough_looks() -> None:
    assert looked(*[(0, 2 * FAR_S)] * (ENOUGH - 1)).far is None
    assert looked(*[(0, 2 * FAR_S)] * ENOUGH).far is True
    assert looked(*[(0, FAR_S / 2)] * ENOUGH).far is False


def test_one_quick_answer_among_slow_ones_says_that_the_machine_is_busy() -> None:
    assert looked((0, 1.0), (0, 1.0), (0, FAR_S / 2), (0, 1.0)).far is False
    assert looked((0, 1.0), (0, 1.0), (0, 1.0), (0, FAR_S / 2)).far is False


def test_an_answer_that_takes_long_and_brings_much_at_once_is_a_busy_servers() -> None:
    much, seconds = 8 * SMALL, 8 * SMALL / SLOW_BYTES_PER_S
    for answer_s, far in ((seconds / 4, False), (seconds, True)):
        distance = looked(*[(0, 2 * FAR_S)] * ENOUGH)
        assert distance.far is True
        distance.saw(much, seconds / 2, answer_s)
        assert distance.far is far


def test_a_range_is_worth_more_the_later_it_begins_and_the_faster_it_comes() -> None:
    assert looked((0, 0.1)).worthwhile == 0
    assert looked((0, 0.1), (0, 0.03), (SMALL, 1.0), (50_000_000, 1.0)).worthwhile == WORTHWHILE * 1_500_000


def test_a_read_is_watched_from_its_first_bytes_on() -> None:
    distance = Distance()
    for _ in range(ENOUGH):
        look = Look(distance)
        time.sleep(1.5 * FAR_S)
        for _ in range(3):
            look.came(SMALL)
        look.end()
    assert distance.far is True
    assert distance.worthwhile > 1.5 * FAR_S * SLOW_BYTES_PER_S


def test_connections_that_carry_little_are_far_however_soon_they_answer() -> None:
    seconds = 8 * SMALL / SLOW_BYTES_PER_S
    assert looked(*[(0, FAR_S / 2)] * ENOUGH, *[(8 * SMALL, 2 * seconds)] * ENOUGH).far is True
    assert looked(*[(8 * SMALL, 2 * seconds)] * ENOUGH, (8 * SMALL, seconds / 2)).far is True
    assert looked((8 * SMALL, seconds / 2), *[(8 * SMALL, 2 * seconds)] * ENOUGH).far is False


def test_who_wants_to_know_is_told_once_it_is_known_and_again_when_it_changes() -> None:
    distance, told = Distance(), list[bool]()
    distance.tell(told.append)
    for _ in range(2 * ENOUGH):
        distance.saw(0, FAR_S / 2)
    assert told == [False]
    for _ in range(2 * ENOUGH):
        distance.saw(8 * SMALL, 1.0)
    assert told == [False, True]
    distance.tell(told.append)
    assert told == [False, True, True]


@pytest.mark.parametrize(("asked", "started"), [(0, 0), (2, 2), (9, 4)])
def test_a_crew_is_never_larger_than_it_may_be(asked: int, started: int) -> None:
    over, running = threading.Event(), list[str]()

    def work() -> None:
        running.append(threading.current_thread().name)
        over.wait(10)

    crew = Crew(work, "lane", 4)
    crew.at_least(asked)
    crew.at_least(asked)
    over.set()
    crew.join(10)
    assert sorted(running) == [f"lane-{number}" for number in range(started)]
