"""Many adapters at once. One that fails never stops the others."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import LoraCliError
from lora_cli.fetching.context import AdapterRequest, FetchContext
from lora_cli.fetching.pipeline import Fetched, bring
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.scheduler import Deadline
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store

if TYPE_CHECKING:
    from lora_cli.store.published import Published

AT_ONCE = 32
LOOK_S = 0.1
SLACK_S = 2.0
"""How long after its time an adapter is waited for, to leave its files well; then nobody waits for it any more."""


S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: ``fetched`` or ``error``, after ``ms`` milliseconds.

    ``directory`` is where it can be used, and ``published`` what was published there, once it was put there.
    """

    request: AdapterRequest
    fetched: Fetched | None
    error: LoraCliError | None
    ms: float
    directory: Path | None = None
    published: "Published | None" = None

    @property
    def exit_code(self) -> int:
        """What this adapter alone would end the command with."""
        return self.error.exit_code if self.error is not None else 0


def bring_all(
    requests: Sequence[AdapterRequest],
    store: Store,
    settings: Settings,
    *,
    progress: Progress = SILENT,
    link: bool = False,
) -> Iterator[Outcome]:
    """Fetches all, and gives each outcome in their order, as soon as it is known.

    ``settings.jobs`` ranges are in flight over all of them. An error that is no ``LoraCliError`` is raised here.
    """
    sources = Sources(settings, [one.asked for one in requests if isinstance(one.asked, AdapterRef)])
    with FetchContext(store, settings, progress, link=link, sources=sources) as context:

        def one(request: AdapterRequest) -> Outcome:
            began = time.perf_counter()
            fetched: Fetched | None = None
            failure: LoraCliError | None = None
            try:
                fetched = bring(request, context)
                context.total.spend(request.turn, request.name, fetched.snapshot.size)
            except LoraCliError as error:
                failure = error
            finally:
                context.total.end(request.turn)
            return Outcome(request, fetched, failure, (time.perf_counter() - began) * 1000)

        def late(request: AdapterRequest) -> Outcome:
            """The error of an adapter whose thread hangs beyond its deadline."""
            context.total.end(request.turn)
            return Outcome(request, None, Deadline.of(request.name, settings).error(), (limit_s or 0.0) * 1000)

        limit_s = None if settings.adapter_timeout_s is None else settings.adapter_timeout_s + SLACK_S
        turns = [replace(request, turn=turn) for turn, request in enumerate(requests)]
        yield from side_by_side(one, turns, settings.jobs, limit_s, late)


def side_by_side(
    one: Callable[[S], T],
    wanted: Sequence[S],
    jobs: int,
    limit_s: float | None = None,
    instead: Callable[[S], T] | None = None,
) -> Iterator[T]:
    """What ``one`` gives for each, in their order, as soon as it is known; up to ``jobs`` are under way at once.

    What ``one`` raises is raised here.
    After ``limit_s`` seconds ``instead`` says what came of one, whose thread is left to itself.
    """
    most = min(jobs, AT_ONCE, len(wanted))
    if most < 2 and limit_s is None:
        yield from map(one, wanted)
        return
    done: dict[int, T | BaseException] = {}
    began_s: dict[int, float] = {}
    changed = threading.Condition()
    left = iter(range(len(wanted)))

    def work() -> None:
        while True:
            with changed:
                index = next(left, None)
                if index is None:
                    return
                began_s[index] = time.monotonic()
            outcome: T | BaseException
            try:
                outcome = one(wanted[index])
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
                outcome = error
            with changed:
                if began_s.pop(index, None) is None:
                    return  # It was overdue, and another thread has its place.
                done[index] = outcome
                changed.notify_all()

    def give_up() -> None:
        """Answers for those that are overdue, and puts another thread in place of each one's."""
        for index, since_s in list(began_s.items()):
            if limit_s is not None and instead is not None and time.monotonic() - since_s > limit_s:
                del began_s[index]
                done[index] = instead(wanted[index])
                threading.Thread(target=work, name=f"instead-{index}", daemon=True).start()

    for number in range(most):
        threading.Thread(target=work, name=f"fetch-{number}", daemon=True).start()
    for index in range(len(wanted)):
        with changed:
            while index not in done:
                changed.wait(LOOK_S)
                give_up()
            outcome = done.pop(index)
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome
