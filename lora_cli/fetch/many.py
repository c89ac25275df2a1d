"""Many adapters at once. One that fails never stops the others."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import LoraCliError, UsageError
from lora_cli.fetch import SILENT, USUAL, Fetched, at_hand
from lora_cli.fetch.demand import Demand
from lora_cli.fetch.lanes import Lanes
from lora_cli.fetch.plan import Selection
from lora_cli.fetch.progress import Progress
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store

if TYPE_CHECKING:
    from lora_cli.core.lock import LockedAdapter
    from lora_cli.fetch.publish import Published

ADAPTERS_AT_ONCE = 32
WAKE_S = 0.5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One adapter to be fetched: what it is called, the snapshot digest that it must have (None: any), and its lock.

    ``ref`` is why there is none when what was asked for is no reference.
    """

    name: str
    ref: AdapterRef | UsageError
    sha256: str | None = None
    locked: "LockedAdapter | None" = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went: ``fetched`` or ``error``, after ``ms`` milliseconds."""

    wanted: Wanted
    fetched: Fetched | None
    error: LoraCliError | None
    ms: float

    @property
    def exit_code(self) -> int:
        """What this adapter alone would end the command with."""
        return self.error.exit_code if self.error is not None else 0


@dataclass(frozen=True, slots=True)
class Handed:
    """The end of one adapter's fetch: how it went, the directory where it can be used, and what was published there."""

    outcome: Outcome
    directory: Path | None = None
    published: "Published | None" = None


def bring_all(
    wanted: Sequence[Wanted],
    store: Store,
    settings: Settings,
    *,
    progress: Progress = SILENT,
    selection: Selection = USUAL,
    link: bool = False,
) -> Iterator[Outcome]:
    """Fetches all, and gives each outcome in their order, as soon as it is known.

    ``settings.jobs`` ranges are in flight over all of them. An error that is no ``LoraCliError`` is raised here.
    """
    sources = Sources(settings)
    with Lanes(settings.jobs) as lanes:

        def one(item: Wanted) -> Outcome:
            began = time.perf_counter()
            fetched, failure = None, None
            if isinstance(item.ref, UsageError):
                return Outcome(item, None, item.ref, 0.0)
            try:
                demand = Demand(item.sha256, item.locked)
                fetched = at_hand(item.ref, store, settings, name=item.name, selection=selection, demand=demand)
                if fetched is None:
                    from lora_cli.fetch.origin import from_origin

                    fetched = from_origin(
                        item.ref,
                        sources.of(item.ref),
                        store,
                        settings,
                        name=item.name,
                        progress=progress,
                        selection=selection,
                        lanes=lanes,
                        demand=demand,
                        link=link,
                    )
            except LoraCliError as error:
                failure = error
            return Outcome(item, fetched, failure, (time.perf_counter() - began) * 1000)

        yield from side_by_side(one, wanted, settings.jobs)


def side_by_side(one: Callable[[Wanted], T], wanted: Sequence[Wanted], jobs: int) -> Iterator[T]:
    """What ``one`` gives for each, in their order, as soon as it is known; up to ``jobs`` are under way at once.

    What ``one`` raises is raised here.
    """
    threads = min(jobs, ADAPTERS_AT_ONCE, len(wanted))
    yield from map(one, wanted) if threads < 2 else _in_threads(one, wanted, threads)


def _in_threads(one: Callable[[Wanted], T], wanted: Sequence[Wanted], threads: int) -> Iterator[T]:
    """Daemon threads, because an interrupt must not wait for a network that is silent or a lease that is held."""
    done: dict[int, T | BaseException] = {}
    changed = threading.Condition()
    left = iter(range(len(wanted)))

    def work() -> None:
        while True:
            with changed:
                index = next(left, None)
            if index is None:
                return
            outcome: T | BaseException
            try:
                outcome = one(wanted[index])
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
                outcome = error
            with changed:
                done[index] = outcome
                changed.notify_all()

    for number in range(threads):
        threading.Thread(target=work, name=f"fetch-{number}", daemon=True).start()
    for index in range(len(wanted)):
        with changed:
            while index not in done:
                changed.wait(WAKE_S)
            outcome = done.pop(index)
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome
