"""Many adapters judged in one run: remote ones in threads, many local ones in processes, always in their order."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lora_cli.core.item import Item
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import MachineError
from lora_cli.forks import forks, processors
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.validation.outcome import Checked
from lora_cli.validation.validate import is_path, validate
from lora_cli.validation.verdict import Terms

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

WORTH_PROCESSES = 24
"""So many local adapters keep a second processor busy for longer than it takes to start there."""

TOGETHER = 8
"""So many adapters at least are handed to a process at once: few, for all processes to end at about the same time."""

AT_ONCE = 4
"""So many files of one remote adapter are asked for at once, where there are not as many adapters to be read."""

MOST_TOGETHER = 64
"""So many at most: what alike verdicts share is sent, and held, once for all of a batch."""


def check_all(items: Sequence[Item], terms: Terms, settings: Settings, *, contents: bool = True) -> Iterator[Checked]:
    """Judge many adapters and give each verdict in their order; at most ``settings.jobs`` are read at once.

    One whose name is empty is called what its source is. A digest and a lock that an item has must hold, as policies.
    Without ``contents`` only the verdicts are kept, so that memory does not grow with what the adapters hold.

    Raises:
        MachineError: a process that judged some of them was killed.
    """
    sources = Sources(settings)
    threads = max(1, min(AT_ONCE, settings.jobs // max(1, len(items))))

    def one(item: Item) -> Checked:
        checked = validate(item, terms, settings, sources, threads)
        return checked if contents else checked.without_contents()

    refs = [item.source for item in items]
    if len(items) < 2:
        yield from map(one, items)
    elif not all(ref.scheme == "file" if isinstance(ref, AdapterRef) else is_path(ref) for ref in refs):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(settings.jobs, len(items))) as pool:
            yield from pool.map(one, items)
    elif len(items) >= WORTH_PROCESSES and (workers := min(processors(), settings.jobs)) > 1:
        yield from in_processes(one, items, workers)
    else:
        yield from map(one, items)


def in_processes(one: Callable[[Item], Checked], items: Sequence[Item], workers: int) -> Iterator[Checked]:
    """Copies of this process, each of which judges every ``workers``-th batch and sends it through its own pipe."""
    together = min(MOST_TOGETHER, max(TOGETHER, len(items) // (workers * 16)))
    batches = [items[first : first + together] for first in range(0, len(items), together)]
    with forks() as start:
        pipes = [start(partial(_judge, one, batches[number::workers])) for number in range(workers)]
        for number in range(len(batches)):
            yield from _received(pipes[number % workers])


def read_all(items: Sequence[Item], settings: Settings) -> Iterator[Checked]:
    """Many adapters as they are, by config and header; no rule judges them. Otherwise as ``check_all``."""
    return check_all(items, Terms(values=False, rules=()), settings)


def _judge(
    one: Callable[[Item], Checked], batches: Sequence[Sequence[Item]], send: Callable[[list[Checked]], None]
) -> None:
    for batch in batches:
        send([one(item) for item in batch])


def _received(pipe: "Connection") -> list[Checked]:
    try:
        batch: list[Checked] = pipe.recv()
    except EOFError as error:
        raise MachineError(
            "a process that judged some of the adapters was killed", hint="free some memory, or lower --jobs"
        ) from error
    return batch
