"""The wire to the warm process: answers in any order, deadlines, and a line that ends in the middle of a word."""

import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest

from lora_cli.errors import LoraCliError, MachineError, Refused
from lora_cli.runtime.channel import Asked, Channel
from lora_cli.runtime.messages import Stage


class Line:
    """A channel, and the other end of it; ``late`` are the requests that were over their deadline."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.late: list[Asked] = []
        self.socket = theirs
        self.far = Connection(theirs.detach())
        self.channel = Channel(ours, overdue=self._overdue, reason=self._gone)

    def _overdue(self, late: list[Asked]) -> None:
        self.late += late
        self.far.close()

    def _gone(self, left: list[Asked]) -> Callable[[Asked], LoraCliError]:
        return lambda asked: MachineError(f"{asked.name} of {len(left)}")

    def ask(self, name: str, limit_s: float | None = None) -> Asked:
        return self.channel.ask(Asked(name, limit_s, lambda *_: None), name)


def test_answers_may_come_in_any_order() -> None:
    line = Line()
    first, second = line.ask("first"), line.ask("second")
    heard = [line.far.recv(), line.far.recv()]
    assert heard == [(1, "first"), (2, "second")]
    line.far.send((2, "to the second"))
    assert second.answer(str) == "to the second"
    line.far.send((1, Stage("read")))
    line.far.send((1, Refused("no")))
    with pytest.raises(Refused, match="no"):
        first.answer(str)
    assert first.stage == "read"
    line.far.close()
    line.channel.close()


def test_an_answer_that_nobody_asked_for_is_none() -> None:
    line = Line()
    line.far.send((7, "to whom?"))
    line.far.send((7, Stage("read")))
    asked = line.ask("mine")
    line.far.send((1, "yours"))
    assert asked.answer(str) == "yours"
    line.far.close()
    line.channel.close()


def test_a_line_that_ends_in_the_middle_of_a_word_fails_all_that_is_open_and_all_that_comes() -> None:
    line = Line()
    asked = [line.ask("one"), line.ask("other")]
    line.far._send(struct.pack("!i", 1000) + b"the beginning")  # type: ignore[attr-defined]
    line.far.close()
    for one in asked:
        with pytest.raises(MachineError, match=f"{one.name} of 2"):
            one.answer(str)
    assert not line.channel.open
    with pytest.raises(MachineError, match="late of 2"):
        line.ask("late").answer(str)
    line.channel.close()


def test_a_deadline_is_kept_also_when_it_is_asked_while_nothing_is() -> None:
    line = Line()
    patient = line.ask("patient")
    time.sleep(0.05)
    began = time.monotonic()
    hasty = line.ask("hasty", 0.2)
    with pytest.raises(MachineError, match="hasty of 2"):
        hasty.answer(str)
    assert 0.2 <= time.monotonic() - began < 2
    assert line.late == [hasty]
    with pytest.raises(MachineError):
        patient.answer(str)
    line.channel.close()


def test_many_threads_ask_at_once_and_each_gets_its_own_answer() -> None:
    line = Line()

    def echo() -> None:
        for _ in range(200):
            line.far.send(line.far.recv())

    with ThreadPoolExecutor(9) as threads:
        threads.submit(echo)
        asked = threads.map(lambda i: (i, line.ask(f"{i}" * 5000)), range(200))
        assert all(one.answer(str) == f"{i}" * 5000 for i, one in asked)
    line.far.close()
    line.channel.close()
