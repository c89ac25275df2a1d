"""One function over several tasks, on all processors where that is worth it."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lora_cli.errors import MachineError

Task = TypeVar("Task")
Done = TypeVar("Done")


def spread(one: Callable[[Task], Done], tasks: Sequence[Task], *, worth: bool) -> Iterator[Done]:
    """What ``one`` makes of each task, as it is done: in no certain order, each in a copy of this process.

    ``one`` is a function of a module, and what it is given and gives back can be pickled.

    Raises:
        MachineError: a process was killed.
    """
    workers = min(len(tasks), _processors())
    if not worth or workers < 2:
        yield from map(one, tasks)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        try:
            for done in as_completed([pool.submit(one, task) for task in tasks]):
                yield done.result()
        except BrokenProcessPool as error:
            raise MachineError("a process of the simulation was killed", hint="it may be short of memory") from error


def _processors() -> int:
    """How many this process may use, where it can be copied at all."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
