"""One function over several tasks, on all processors if that is faster."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lora_cli.errors import MachineError
from lora_cli.forks import forks, processors

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Task = TypeVar("Task")
Done = TypeVar("Done")


class Mapper(Protocol):
    """A function like ``parallel_map``; another one may run the tasks on other machines."""

    def __call__(self, one: Callable[[Task], Done], tasks: Sequence[Task], *, parallel: bool) -> Iterator[Done]:
        """The results of ``one`` for each task, in any order."""


def parallel_map(one: Callable[[Task], Done], tasks: Sequence[Task], *, parallel: bool) -> Iterator[Done]:
    """The results of ``one`` for each task, in the order of completion, each computed in a fork of this process.

    What it gives back, or raises, can be pickled.

    Raises:
        MachineError: a process was killed.
    """
    workers = min(len(tasks), processors())
    if not parallel or workers < 2:
        yield from map(one, tasks)
        return
    from multiprocessing.connection import wait

    left = iter(tasks)
    with forks() as start:
        under_way = [start(partial(_send, one, task)) for task in islice(left, workers)]
        while under_way:
            for pipe in wait(under_way):
                under_way.remove(pipe)  # type: ignore[arg-type]
                done: Done = _received(pipe)  # type: ignore[arg-type]
                under_way += [start(partial(_send, one, task)) for task in islice(left, 1)]
                yield done


def _send(one: Callable[[Task], Done], task: Task, send: Callable[[Any], None]) -> None:
    try:
        done = one(task)
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        send((None, error))
    else:
        send((done, None))


def _received(pipe: "Connection") -> Any:
    try:
        done, error = pipe.recv()
    except EOFError as ended:
        raise MachineError("a process of the simulation was killed", hint="it may have run out of memory") from ended
    if error is not None:
        raise error
    return done
