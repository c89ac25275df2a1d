"""The adapters of a server by name: each brought to this disk, loaded and proved at its first request, once for all."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from lora_cli.core.item import Item
from lora_cli.core.results import LoadReport
from lora_cli.errors import LoraCliError, Unreachable
from lora_cli.runtime.admitted import continued
from lora_cli.runtime.channel import Asked
from lora_cli.runtime.messages import Drop, Heard, Job, Prefetch, Ready
from lora_cli.runtime.plan import Needs
from lora_cli.runtime.process import WarmProcess
from lora_cli.serving.adapters import Counters, Entries, Entry, Failures
from lora_cli.serving.admissions import Admissions
from lora_cli.serving.answers import error_of
from lora_cli.serving.history import NOTHING, Past
from lora_cli.serving.looking import Looking
from lora_cli.serving.prefetch import Prefetcher

T = TypeVar("T")

MOST_AT_ONCE = 64
"""Adapters that are brought and loaded at once for requests that wait for them."""

Open = Callable[[Sequence[Needs]], WarmProcess]


class Host:
    """Holds what is known of each adapter, and the warm process once ``start`` has laid it out.

    ``admissions`` bring adapters to this disk and judge them there. ``open_process`` makes the warm process for those
    that are there first. ``slots`` adapters are loaded and proved before anybody asks, the pinned ones first, then by
    what ``past`` says was asked for most; ``memory`` in all are read into memory, and the others wait for their
    first request.
    Calls that may take long have threads of ``asking`` (the warm process) and ``aside`` (this machine's disks).
    ``stopping`` is done when the server is told to end; whoever runs the event loop makes it.
    """

    stopping: "asyncio.Future[None]"

    def __init__(
        self,
        items: Iterable[Item],
        admissions: Admissions,
        open_process: Open,
        *,
        slots: int,
        memory: int,
        past: Past = NOTHING,
    ) -> None:
        self._open = open_process
        self._slots, self._memory = slots, memory
        self._past = past
        self.entries = Entries(items)
        self._under_way: dict[str, Future[LoadReport]] = {}
        self._lock = threading.RLock()
        self._standing: Future[WarmProcess] = Future()
        self._loads = ThreadPoolExecutor(MOST_AT_ONCE, "adapter")
        self._ahead = Prefetcher(self._load_ahead)
        self._first_wave = threading.Event()
        self._closed = False
        self.counters, self.failures = Counters(), Failures()
        self._admissions = admissions
        self._laid_out: WarmProcess | None = None
        self.looking = Looking(lambda: self.process)
        self.asking, self.aside = (ThreadPoolExecutor(MOST_AT_ONCE, name) for name in ("ask", "aside"))

    @property
    def process(self) -> WarmProcess | None:
        """The warm process, once it stood."""
        return self._standing.result() if self._standing.done() and self._standing.exception() is None else None

    @property
    def ready(self) -> bool:
        """Whether it stands, and all that was to be loaded first was tried."""
        process = self.process
        return self._first_wave.is_set() and process is not None and process.stands

    @property
    def queued(self) -> int:
        """How many adapters wait to be loaded ahead, or are on their way for a request."""
        return len(self._ahead) + len(self._under_way)

    def start(self) -> Ready:
        """Bring what is to be loaded first, lay out the warm process for it, and load it ahead of its requests.

        Raises:
            LoraCliError: what keeps the warm process from standing.
        """
        first = self._by_heat()[: self._memory]
        for brought in [self._loads.submit(self._bring, entry) for entry in first]:
            brought.result()
        try:
            process = self._laid_out = self._open([one.needs for one in self.entries.all() if one.needs is not None])
            if self._closed:
                raise Unreachable("the server is stopping")
            ready = process.start()
        except LoraCliError as error:
            self._stands(error)
            raise
        self._stands(process)
        self.load_first()
        return ready

    def _stands(self, said: WarmProcess | LoraCliError) -> None:
        """The warm process, or why there is none: what is said first counts."""
        with self._lock:
            if not self._standing.done():
                if isinstance(said, LoraCliError):
                    self._standing.set_exception(said)
                else:
                    self._standing.set_result(said)

    def load_first(self) -> None:
        """Have the pinned and the hottest loaded ahead of their requests: at the start, and when the child died."""
        for place, entry in enumerate(self._by_heat()[: self._memory]):
            self._ahead.add(entry.item.name, place)

    def wait_for_first(self) -> None:
        """Wait until all that was to be loaded first was tried."""
        self._ahead.wait()
        self._first_wave.set()

    def have(self, name: str) -> "Future[LoadReport]":
        """Have an adapter on this disk, loaded and proved; those who ask meanwhile wait for the same load.

        Raises:
            NotFound: nobody has told of such an adapter.
        """
        with self._lock:
            entry = self.entries.of(name)
            future = self._under_way.get(name)
            if future is not None:
                return future
            if self.is_proved(entry):
                assert entry.report is not None
                future = Future()
                future.set_result(entry.report)
                return future
            future = self._under_way[name] = self._loads.submit(self._load, entry)
        future.add_done_callback(lambda done: self._ended(name, done))
        return future

    def is_proved(self, entry: Entry) -> bool:
        """Whether the warm process that lives now has proved it; an eviction since then changes nothing of that."""
        process = self.process
        return process is not None and entry.proved_by == process.starts and process.pid is not None

    def add(self, item: Item) -> "Future[LoadReport]":
        """Have an adapter loaded that a client named; one of that name and source stays as it is.

        Raises:
            UsageError: there is another one of that name; or there are too many.
        """
        self.entries.add(item)
        return self.have(item.name)

    def replace(self, item: Item) -> "Future[LoadReport]":
        """Have one that a client named under a name that may be known: it takes that once it is proved, not before."""
        return self._loads.submit(self._replace, Entry(item, by_client=True))

    def _load(self, entry: Entry) -> LoadReport:
        """Bring, load and prove one adapter; its report says what went wrong. What failed of late is not tried."""
        name = entry.item.name
        failure = self.failures.last(name)
        if failure is not None and self.failures.wait_s(name) > 0:
            return failure.report
        report = self._try_to_load(entry)
        if report.error:
            self.failures.add(name, report)
        else:
            self.failures.clear(name)
        if not self.entries.has(entry):  # it was unloaded meanwhile
            self.failures.clear(name)
        return report

    def _try_to_load(self, entry: Entry) -> LoadReport:
        """The same, whatever failed before, and without remembering what fails now."""
        report, job = self._brought(entry)
        if job is not None:
            report = continued(report, self._loaded(entry, job))
        if report.error:
            entry.job = None  # the next try begins at its origin: this snapshot may be gone
        entry.report = report
        self.counters.load(report)
        return report

    def _brought(self, entry: Entry) -> tuple[LoadReport, Job | None]:
        """It on this disk, and judged there. What is here already and was judged before is not looked at again."""
        if entry.job is not None:
            before = entry.report or LoadReport(entry.item.name, entry.job.digest)
            digest, applied, copied_to = entry.job.digest, before.applied, before.copied_to
            return LoadReport(entry.item.name, digest, applied=applied, copied_to=copied_to), entry.job
        admitted = self._admissions.admit(entry.item, by_client=entry.by_client)
        entry.job, entry.needs, entry.remote = admitted.job, admitted.needs, not admitted.cached
        return admitted.report, admitted.job

    def _bring(self, entry: Entry) -> None:
        """Have it on this disk, ahead of its load; what kept it from that is remembered."""
        report, job = self._brought(entry)
        entry.report = report
        if job is None:
            self.counters.load(report)
            self.failures.add(entry.item.name, report)

    def _loaded(self, entry: Entry, job: Job) -> LoadReport:
        """Its report by the warm process."""
        try:
            process = self._process()
        except LoraCliError as error:
            return LoadReport(job.name, job.digest).failed("start", error)
        report = process.load(job)
        entry.proved_by = 0 if report.error else process.starts
        return report

    def _replace(self, entry: Entry) -> LoadReport:
        report = self._try_to_load(entry)
        if not report.error:
            with self._lock:
                known = self.entries.put(entry)
                self._under_way.pop(entry.item.name, None)
                self.failures.clear(entry.item.name)
            if known is not None:
                self._let_go(known)
        return report

    def remove(self, name: str) -> None:
        """Forget an adapter, and let go of it wherever it is. Raises ``NotFound``."""
        with self._lock:
            entry = self.entries.remove(name)
            self._under_way.pop(name, None)
            self.failures.clear(name)
        self._let_go(entry)

    def prefetch(self, names: Iterable[str], priority: int) -> None:
        """Have these loaded some time ahead of their requests. Raises ``NotFound``."""
        for name in list(names):
            self.entries.of(name)
            self._ahead.add(name, priority)

    def ask(self, name: str, message: object, heard: Callable[[Heard], None] = lambda _said: None) -> Asked:
        """Ask the warm process for something about an adapter that it has proved; its answer may be ``Died``.

        ``heard`` is told what comes before its end.
        """
        return self._process().submit(name, message, heard)

    def bring_anew(self, entry: Entry, job: Job) -> None:
        """The files of ``job`` are gone: whoever has this adapter next begins at its origin."""
        if entry.job is job:
            entry.job, entry.proved_by = None, 0

    def used(self, entry: Entry, tier: str) -> None:
        """Book one request, whose adapter was found in ``tier``."""
        entry.requests += 1
        entry.last_used = time.time()
        self.counters.request(tier)

    def remember(self) -> Past | None:
        """What a server after this one, and a child after this child, should know; None while nothing stands."""
        holdings, process = self.looking.wait(with_history=True), self.process
        if holdings is None or process is None:
            return None
        keys = {entry.item.name: entry.job.key for entry in self.entries.all() if entry.job is not None}
        self._past = Past(holdings.history, keys)
        process.plan = replace(process.plan, history=holdings.history)
        return self._past

    def supervise(self) -> None:
        """Start the child again when it is gone, and load what was hot. Raises what keeps it from standing."""
        process = self.process
        if process is not None and process.pid is None and not self._closed:
            process.revive()
            self.load_first()

    def stop_loading(self) -> None:
        """Bring and judge nothing more, at once; who waits for that is told."""
        self._closed = True
        self._admissions.close()

    def close(self) -> None:
        """End the warm process, also one that is still starting; who still waits is told."""
        self.stop_loading()
        self._ahead.close()
        self._stands(Unreachable("the server is stopping"))
        if self._laid_out is not None:
            self._laid_out.close()

    def _by_heat(self) -> list[Entry]:
        """Pinned adapters first, then those with known rates, then the others as the manifest has them."""
        place = {name: number for number, name in enumerate(self._past.hottest())}
        return sorted(
            self.entries.all(), key=lambda entry: (not entry.item.pinned, place.get(entry.item.name, len(place)))
        )

    def _process(self) -> WarmProcess:
        """The warm process, as soon as it stands. Raises what keeps it from standing."""
        return self._standing.result()

    def _load_ahead(self, name: str) -> None:
        """Load and prove while slots are free, else only read into memory."""
        with suppress(LoraCliError):
            entry = self.entries.of(name)
            holdings = self.looking.wait()
            if holdings is None or len(holdings.gpu.keys) < self._slots or entry.item.pinned:
                self.have(name).result()
                return
            if self.failures.wait_s(name) > 0 or self.is_proved(entry):
                return
            self._bring(entry)
            if entry.job is not None:
                self.ask(name, Prefetch(entry.job)).answer(bool)

    def _let_go(self, entry: Entry) -> None:
        """Drop it from the tiers, unless another name has the same bytes."""
        job, process = entry.job, self.process
        if job is None or process is None or process.pid is None:
            return
        if not any(other.job is not None and other.job.key == job.key for other in self.entries.all()):
            process.submit(job.name, Drop(job.key))

    def _ended(self, name: str, done: "Future[LoadReport]") -> None:
        with self._lock:
            if self._under_way.get(name) is done:
                del self._under_way[name]


async def had(host: Host, entry: Entry) -> tuple[str, float]:
    """Have it proved. Where it came from, and in how many milliseconds; "" and 0 when it was proved before.

    Raises:
        LoraCliError: it cannot be loaded.
    """
    if host.is_proved(entry):
        return "", 0.0
    began = time.perf_counter()
    is_new = entry.job is None
    report = await wait(host, host.have(entry.item.name))
    if report.error:
        raise error_of(report)
    return "remote" if is_new and entry.remote else report.tier, (time.perf_counter() - began) * 1e3


async def taken_away(host: Host, entry: Entry, job: Job) -> bool:
    """Whether ``job``'s files went from this disk since it was proved (``cache rm`` takes what is in use, too).

    It is then brought from its origin by whoever has it next.
    """
    if await wait(host, host.aside.submit(job.directory.is_dir)):
        return False
    host.bring_anew(entry, job)
    return True


async def wait(host: Host, future: "Future[T]") -> T:
    """Its result. A client that goes away does not cancel what others may wait for.

    Raises:
        Unreachable: the server is told to end meanwhile.
    """
    waited = asyncio.wrap_future(future)
    waited.add_done_callback(_looked_at)
    either: set[asyncio.Future[Any]] = {waited, host.stopping}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not waited.done():
        raise Unreachable("the server is stopping")
    return waited.result()


def _looked_at(future: "asyncio.Future[T]") -> None:
    """Nobody may be there any more to hear of its error, which is no reason to log it."""
    if not future.cancelled():
        future.exception()
