"""A child process that is asked: answers in any order, deadlines, and a line that ends in the middle of a word."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lora_cli.errors import Refused
from lora_cli.runtime.child_process import (
    ChildProcess,
    PendingRequest,
    ProcessCrashed,
    ProcessDied,
    ProcessTimedOut,
    Program,
)
from lora_cli.runtime.messages import Stage

pytestmark = pytest.mark.slow

SAYS_WHAT_IT_IS_TOLD = """
import os, struct
from lora_cli.runtime.parent_connection import ParentConnection

def main(descriptor):
    parent = ParentConnection(descriptor)
    for message, send in parent.requests():
        if message == "break off":
            os.write(descriptor, struct.pack("!i", 1000) + b"the beginning")
            os._exit(3)
        if isinstance(message, str):
            send(message)
        else:
            for answer in message:
                parent.send(*answer)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChildProcess]:
    """Sends a text back as the answer; of anything else, what it is told to say to the requests of which numbers."""
    (tmp_path / "says_what_it_is_told.py").write_text(SAYS_WHAT_IT_IS_TOLD)
    monkeypatch.syspath_prepend(tmp_path)
    started = ChildProcess(
        Program(module="says_what_it_is_told", title="the child", stop_deadline_s=1), [(1, "it stands")]
    )
    assert started.started.answer(str) == "it stands"
    yield started
    started.kill()
    started.close()


def test_answers_may_come_in_any_order(child: ChildProcess) -> None:
    first = child.ask(PendingRequest("first"), [])
    assert child.ask(PendingRequest("second"), [(3, "to the second")]).answer(str) == "to the second"
    child.ask(PendingRequest("third"), [(2, Stage("read")), (2, Refused("no"))])
    with pytest.raises(Refused, match="no"):
        first.answer(str)
    assert first.stage == "read"


def test_an_answer_that_nobody_asked_for_is_none(child: ChildProcess) -> None:
    said = [(7, "to whom?"), (7, Stage("read")), (2, "yours")]
    assert child.ask(PendingRequest("mine"), said).answer(str) == "yours"


def test_a_line_that_ends_in_the_middle_of_a_word_fails_all_that_is_open_and_all_that_comes(
    child: ChildProcess,
) -> None:
    asked = [child.ask(PendingRequest("one"), []), child.ask(PendingRequest("other"), "break off")]
    for one in asked:
        with pytest.raises(ProcessCrashed, match="the child died: exit status 3") as error:
            one.answer(str)
        assert not error.value.only_request
    assert not child.is_open
    with pytest.raises(ProcessCrashed):
        child.ask(PendingRequest("late"), "text").answer(str)


def test_a_deadline_is_kept_also_when_it_is_asked_while_nothing_is(child: ChildProcess) -> None:
    patient = child.ask(PendingRequest("patient"), [])
    time.sleep(0.05)
    began = time.monotonic()
    with pytest.raises(ProcessTimedOut, match=r"longer than 0\.2 s"):
        child.ask(PendingRequest("hasty", 0.2), []).answer(str)
    assert 0.2 <= time.monotonic() - began < 2
    with pytest.raises(ProcessDied, match="hasty took too long"):
        patient.answer(str)


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(child: ChildProcess) -> None:
    with ThreadPoolExecutor(9) as threads:
        asked = threads.map(lambda i: (i, child.ask(PendingRequest(f"{i}"), f"{i}" * 5000)), range(200))
        assert all(one.answer(str) == f"{i}" * 5000 for i, one in asked)
