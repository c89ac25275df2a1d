"""Work beside this thread: in daemon threads, and in copies of this process."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lora_cli.errors import MachineError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

Name = TypeVar("Name")
Reply = TypeVar("Reply")

TOGETHER, MOST_TOGETHER = 8, 64
"""The batches of a process: small, so that all end at about the same time; what their results share is sent once."""


def run_in_thread(call: Callable[[], Reply], name: str) -> "Future[Reply]":
    """What ``call`` will give, which runs in a daemon thread with that name: an interrupt does not wait for it."""
    future = Future[Reply]()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def map_in_threads(ask: Callable[[Name], Reply], names: Iterable[Name], threads: int) -> list[Reply]:
    """The answers, in the order of ``names``. The first error that comes is raised; nothing more is asked then."""
    left, answers = deque(enumerate(names)), dict[int, Reply]()
    count = len(left)

    def run() -> None:
        while True:
            try:
                number, name = left.popleft()
            except IndexError:
                return
            answers[number] = ask(name)

    for worker in as_completed([run_in_thread(run, "map") for _ in range(min(threads, count))]):
        if (error := worker.exception()) is not None:
            left.clear()
            raise error
    return [answers[number] for number in range(count)]


Work = Callable[[Callable[[Any], None]], None]
"""What a copy does; it is given what sends a value to this process."""


def processors() -> int:
    """How many this process may use, where it can be copied at all."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


@contextmanager
def forks() -> "Iterator[Callable[[Work], Connection]]":
    """What starts a copy, and gives the pipe that it sends through; all copies end with the block.

    A pipe that is full stops its writer, so that what waits to be taken is bounded. It ends with its copy.
    """
    import multiprocessing
    import signal

    context = multiprocessing.get_context("fork")
    pipes: list[Connection] = []
    processes: list[ForkProcess] = []

    def start(work: Work) -> "Connection":
        ours, theirs = context.Pipe(duplex=False)
        pipes.append(ours)
        process = context.Process(target=_live, args=(work, ours, theirs), daemon=True)
        # A handler of this process that raises must not do so in a copy that does not yet have its own.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        processes.append(process)
        theirs.close()
        return ours

    try:
        yield start
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _live(work: Work, ours: "Connection", theirs: "Connection") -> None:
    """A copy's whole life. Ctrl-C is for the first process, which ends its copies; its handlers are not theirs."""
    import signal

    ours.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(BrokenPipeError):
        work(theirs.send)


def _end_with_parent() -> None:
    """A process that is killed says nothing to its copies; but a pipe of each closes with it.

    A copy holds those pipes of the ones before it open: they are stopped one after the other, the last one first.
    """
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def in_processes(call: Callable[[Name], Reply], items: Sequence[Name], workers: int) -> Iterator[Reply]:
    """The answers in the order of the items, by copies of this process that take every ``workers``-th batch each.

    Raises:
        MachineError: one of the processes was killed.
    """
    together = min(MOST_TOGETHER, max(TOGETHER, len(items) // (workers * 16)))
    batches = [items[first : first + together] for first in range(0, len(items), together)]

    def work(number: int, send: Callable[[list[Reply]], None]) -> None:
        for batch in batches[number::workers]:
            send([call(item) for item in batch])

    with forks() as start:
        pipes = [start(partial(work, number)) for number in range(workers)]
        for number in range(len(batches)):
            try:
                answers: list[Reply] = pipes[number % workers].recv()
            except EOFError as error:
                hint = "free some memory, or lower jobs (LORA_CLI_JOBS)"
                raise MachineError("a process that read some of the adapters was killed", hint=hint) from error
            yield from answers
