"""The device's turns: one at a time, and requests first."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from lora_cli.runtime.device_lock import DeviceLock


def test_a_request_waits_for_one_step_of_the_background_and_not_for_all_of_them() -> None:
    turns, steps, ended = DeviceLock(), [], threading.Event()

    def background() -> None:
        while not ended.is_set():
            with turns.background():
                steps.append("step")
                time.sleep(0.002)

    threads = [threading.Thread(target=background) for _ in range(3)]
    for thread in threads:
        thread.start()
    waited = []
    for _ in range(50):
        before = len(steps)
        with turns.request():
            waited.append(len(steps) - before)
        time.sleep(0.001)
    ended.set()
    for thread in threads:
        thread.join()
    assert max(waited) <= 2
    assert len(steps) > 20


def test_nobody_has_the_device_at_the_same_time_and_an_error_gives_it_back() -> None:
    turns, inside, most = DeviceLock(), [0], [0]

    def use(turn: Callable[[], AbstractContextManager[None]]) -> None:
        for _ in range(200):
            with suppress(ZeroDivisionError), turn():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                1 / 0  # noqa: B018

    threads = [threading.Thread(target=use, args=(turn,)) for turn in (turns.request, turns.background) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most[0] == 1
    assert not any(thread.is_alive() for thread in threads)
