"""Many adapters at once. One that fails never stops the others."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lora_cli.core.reference import AdapterRef
from lora_cli.core.request import Request
from lora_cli.errors import LoraCliError
from lora_cli.fetching.context import FetchContext
from lora_cli.fetching.deadline import Deadline
from lora_cli.fetching.pipeline import Fetched, fetch
from lora_cli.fetching.progress import SILENT, Progress
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
    sources = Sources(settings, [one.source for one in requests if isinstance(one.source, AdapterRef)])
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
            return Outcome(
                request, None, Deadline.of(request.name, settings).error(), settings.adapter_timeout_s * 1000
            )

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
    threads, limit_s = min(settings.jobs, MAX_THREADS, len(items)), settings.adapter_timeout_s + GRACE_S
    done: dict[int, T | BaseException] = {}
    began_s: dict[int, float] = {}
    changed = threading.Condition()
    left = iter(range(len(items)))

    def work() -> None:
        while True:
            with changed:
                index = next(left, None)
                if index is None:
                    return
                began_s[index] = time.monotonic()
            outcome: T | BaseException
            try:
                outcome = call(items[index])
            except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
                outcome = error
            with changed:
                if began_s.pop(index, None) is None:
                    return  # It timed out, and another thread has replaced this one.
                done[index] = outcome
                changed.notify_all()

    def replace_overdue() -> None:
        """Sets the results of the calls that are overdue, and starts another thread in place of each."""
        for index, since_s in list(began_s.items()):
            if time.monotonic() - since_s > limit_s:
                del began_s[index]
                done[index] = timed_out(items[index])
                threading.Thread(target=work, name=f"replacement-{index}", daemon=True).start()

    for number in range(threads):
        threading.Thread(target=work, name=f"fetch-{number}", daemon=True).start()
    for index in range(len(items)):
        with changed:
            while index not in done:
                changed.wait(POLL_S)
                replace_overdue()
            outcome = done.pop(index)
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome
