"""What one fetch is about, and what the fetches of one run share: cache, settings, threads, room, and a limit."""

import threading
from dataclasses import dataclass
from typing import Self

from lora_cli.core.lock import ref_at
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import Refused, UsageError
from lora_cli.fetching.disk_space import Room
from lora_cli.fetching.file_selection import USUAL, Selection
from lora_cli.fetching.progress import SILENT, Progress
from lora_cli.fetching.requirements import ANYTHING, Demand
from lora_cli.fetching.scheduler import RangeScheduler
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.in_use import Hold


@dataclass(frozen=True, slots=True)
class AdapterRequest:
    """One adapter that is asked for: which files of it, and what must hold for it whatever its origin gives.

    ``asked`` is the error if the request is not a reference. ``name`` is what progress and messages call it, "" for the
    reference itself. ``typed`` is the reference as the user typed it, where that is what the adapter is known by: two
    may have one name. ``turn`` is its number in the run.
    """

    asked: AdapterRef | UsageError
    name: str = ""
    selection: Selection = USUAL
    demand: Demand = ANYTHING
    typed: str = ""
    turn: int = 0

    @property
    def ref(self) -> AdapterRef:
        """The reference; raises ``UsageError`` when there is none."""
        if isinstance(self.asked, UsageError):
            raise self.asked
        return self.asked

    @property
    def locked_ref(self) -> AdapterRef:
        """The reference at the revision that the lock has for it.

        Raises:
            UsageError: there is no reference, or the locked revision is not a commit.
        """
        locked = self.demand.locked
        return self.ref if locked is None else ref_at(self.ref, locked)

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or str(self.ref)


class Total:
    """``--max-total-bytes``: what the adapters of one run may have together, whether they are cached or not.

    It is spent in the order of the adapters, so that the same ones are refused at every run: each waits until all
    before it are resolved or have failed.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._spent: dict[int, int] = {}
        self._changed = threading.Condition()

    def spend(self, turn: int, name: str, count: int) -> None:
        """How many bytes are the adapter's, which is number ``turn`` from 0. Asked again, the last word counts.

        Raises:
            Refused: they are more than is left.
        """
        if self._most is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: all(number in self._spent for number in range(turn)))
            before = sum(spent for number, spent in self._spent.items() if number != turn)
            fits = before + count <= self._most
            self._spent[turn] = count if fits else 0
            self._changed.notify_all()
        if not fits:
            raise Refused(
                f"{name} has {count} bytes: with the {before} of the others over the limit of {self._most} for a run",
                hint="raise --max-total-bytes, or fetch fewer adapters at once",
            )

    def end(self, turn: int) -> None:
        """The adapter is done or has failed: those after it need not wait for it."""
        with self._changed:
            self._spent.setdefault(turn, 0)
            self._changed.notify_all()


class FetchContext:
    """What the adapters of one run share; closed when the run is over.

    With ``link`` the weights of a folder become hard links in the cache, where the file system lets them. ``hold``
    keeps what is fetched from being cleaned away; without one, the context does as long as it lasts.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        progress: Progress = SILENT,
        *,
        link: bool = False,
        hold: Hold | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.store, self.settings, self.progress, self.link = store, settings, progress, link
        self.hold, self._own_hold = hold or Hold(store), hold is None
        self.sources = sources or Sources(settings)
        self.scheduler = RangeScheduler(settings.jobs)
        self.room = Room(store, settings.keep_free, settings.cache_budget)
        self.total = Total(settings.max_total_bytes)

    def beside(self, sources: Sources | None = None) -> "FetchContext":
        """A context for another adapter of this run: with threads of its own, within this one's room and limit."""
        made = FetchContext(
            self.store, self.settings, self.progress, link=self.link, hold=self.hold, sources=sources or self.sources
        )
        made.room, made.total = self.room, self.total
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.scheduler.close()
        if self._own_hold:
            self.hold.end()
