"""Many adapters at once. One that fails never stops the others."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from lora_cli.errors import LoraCliError
from lora_cli.fetching.context import SILENT, FetchContext, Progress
from lora_cli.fetching.pipeline import Fetched, fetch
from lora_cli.fetching.readers import Deadline
from lora_cli.refs.request import Request
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store

if TYPE_CHECKING:
    from lora_cli.store.materialize import Published

MAX_THREADS = 32
POLL_S = 0.1
GRACE_S = 2.0
"""How long after its deadline an adapter is waited for, to leave its files in order; then it is given up."""

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one request: ``fetched`` or ``error``, after ``ms`` milliseconds.

    ``directory`` is where the caller has written it, ``published`` what was published there, and ``unchecked`` what
    could not be checked before.
    """

    request: Request
    fetched: Fetched | None
    error: LoraCliError | None
    ms: float
    directory: Path | None = None
    published: "Published | None" = None
    unchecked: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code for this adapter alone."""
        return self.error.exit_code if self.error is not None else 0


def fetch_all(
    requests: Sequence[Request],
    store: Store,
    settings: Settings,
    *,
    progress: Progress = SILENT,
) -> Iterator[Outcome]:
    """Fetches all adapters and yields their outcomes in order, each as soon as it and those before it are known.

    ``settings.jobs`` ranges are in flight over all of them. Errors other than ``LoraCliError`` are raised here.
    """
    sources = Sources(settings)
    with FetchContext(store, settings, progress, sources=sources) as context:

        def one(request: Request) -> Outcome:
            began = time.perf_counter()
            fetched: Fetched | None = None
            failure: LoraCliError | None = None
            try:
                fetched = fetch(request, context)
            except LoraCliError as error:
                failure = error
            return Outcome(request, fetched, failure, (time.perf_counter() - began) * 1000)

        def timed_out(request: Request) -> Outcome:
            error = Deadline.of(request.name, settings).error()
            return Outcome(request, None, error, settings.adapter_timeout_s * 1000)

        yield from ordered_parallel_map(one, requests, settings, timed_out)


def ordered_parallel_map(
    call: Callable[[S], T],
    items: Sequence[S],
    settings: Settings,
    timed_out: Callable[[S], T],
) -> Iterator[T]:
    """The results of ``call`` in the order of ``items``, each as soon as it is known; ``settings.jobs`` run at once.

    An exception of ``call`` is raised here. The result of a call that takes over ``settings.adapter_timeout_s`` is that
    of ``timed_out``; its daemon thread is abandoned.
    """
    results: dict[int, Future[T]] = {number: Future() for number in range(len(items))}
    began_s: dict[int, float] = {}
    left: SimpleQueue[int] = SimpleQueue()
    for number in results:
        left.put(number)

    def work() -> None:
        # Until nothing is left, or its call timed out, when another thread has replaced this one.
        with suppress(Empty, InvalidStateError):
            while True:
                index = left.get_nowait()
                result, began_s[index] = results[index], time.monotonic()
                try:
                    found = call(items[index])
                except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                    result.set_exception(error)
                else:
                    result.set_result(found)

    def start(count: int) -> None:
        for _ in range(count):
            threading.Thread(target=work, name="fetch", daemon=True).start()

    start(min(settings.jobs, MAX_THREADS, len(items)))
    for number in range(len(items)):
        while not wait([results[number]], POLL_S).done:
            for index, result in results.items():
                since_s = began_s.get(index, math.inf)
                with suppress(InvalidStateError):  # it has just ended
                    if time.monotonic() - since_s > settings.adapter_timeout_s + GRACE_S and not result.done():
                        result.set_result(timed_out(items[index]))
                        start(1)
        yield results.pop(number).result()
