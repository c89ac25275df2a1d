"""The adapters of a server by name: each one is fetched, loaded and tested once, at its first request."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

from lora_cli.core.adapter_request import Item
from lora_cli.core.results import LoadReport
from lora_cli.errors import LoraCliError, Unreachable
from lora_cli.runtime.child_process import Asked, Died
from lora_cli.runtime.load_jobs import continued
from lora_cli.runtime.messages import Drop, Heard, Job, Prefetch, Ready
from lora_cli.runtime.plan import Needs
from lora_cli.runtime.warm_process import WarmProcess
from lora_cli.serving.adapter_state import Counters, Entries, Entry
from lora_cli.serving.admissions import Admissions
from lora_cli.serving.cached_status import Looking
from lora_cli.serving.prefetch import Prefetcher
from lora_cli.serving.request_rates import NOTHING, Past
from lora_cli.serving.responses import error_of

P = ParamSpec("P")
T = TypeVar("T")

MOST_AT_ONCE = 64
"""Adapters that are brought and loaded at once for requests that wait for them."""

Open = Callable[[Sequence[Needs]], WarmProcess]


class Host:
    """Holds what is known of each adapter, and the warm process once ``start`` has laid it out.

    All of it lives in the server's event loop. What may take long has threads: ``_loads`` bring and load adapters,
    ``asking`` asks the warm process, and ``aside`` looks at this machine's disks.

    ``admissions`` bring adapters to this disk and validate them there. ``open_process`` makes the warm process for
    those that are there first. ``slots`` adapters are loaded and proved before anybody asks, the pinned ones first,
    then by what ``past`` says was asked for most; ``memory`` in all are read into memory, and the others wait for their
    first request. ``process`` is the warm process, once it was ready. ``stopping`` is set when the server is asked to
    stop.
    """

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
        self.entries, self.counters = Entries(items), Counters()
        self.process: WarmProcess | None = None
        self.stopping = asyncio.Event()
        self.looking = Looking(lambda: self.process)
        self.asking, self.aside, self._loads = (
            ThreadPoolExecutor(MOST_AT_ONCE, name) for name in ("ask", "aside", "adapter")
        )
        self._admissions, self._open, self._past = admissions, open_process, past
        self.slots, self._memory = slots, memory
        self._laid_out: WarmProcess | None = None
        self._failure: LoraCliError | None = None
        self._settled = asyncio.Event()
        self._ahead = Prefetcher(self._load_ahead)
        self._first_tried = False
        self._loaded_for = 0

    @property
    def ready(self) -> bool:
        """Whether it is ready, and all that was to be loaded first was tried."""
        return self._first_tried and self.process is not None and self.process.stands

    @property
    def queued(self) -> int:
        """How many adapters wait to be loaded ahead, or are on their way for a request."""
        return len(self._ahead) + sum(one.loading is not None and not one.loading.done() for one in self.entries)

    async def start(self) -> Ready:
        """Bring what is to be loaded first, lay out the warm process for it, and load it ahead of its requests.

        Raises:
            LoraCliError: what keeps the warm process from standing.
        """
        # An engine that reads the copies never asks this server for the others.
        most = None if self._admissions.copies else self._memory
        await asyncio.gather(*map(self._bring, self._by_heat()[:most]))
        try:
            process = self._laid_out = self._open([one.needs for one in self.entries if one.needs is not None])
            ready = await _in(self.asking, process.start)
        except LoraCliError as error:
            self._failure = error
            self._settled.set()
            raise
        self.process = process
        self._settled.set()
        self.load_first()
        return ready

    def load_first(self) -> None:
        """Have the pinned and the hottest loaded ahead of their requests: at the start, and when the child died."""
        self._loaded_for = self.process.starts if self.process is not None else 0
        for place, entry in enumerate(self._by_heat()[: self._memory]):
            self._ahead.add(entry.item.name, place)

    async def wait_for_first(self) -> None:
        """Wait until all that was to be loaded first was tried."""
        await self._ahead.wait()
        self._first_tried = True

    async def wait(self, awaited: Awaitable[T]) -> T:
        """Its result. A client that goes away does not cancel what others may wait for.

        Raises:
            Unreachable: the server is asked to stop meanwhile.
        """
        waited, stopping = asyncio.ensure_future(awaited), asyncio.ensure_future(self.stopping.wait())
        waited.add_done_callback(_seen)
        try:
            await asyncio.wait((waited, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not waited.done():
            raise Unreachable("the server is stopping")
        return waited.result()

    async def in_thread(self, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """What a call gives that may look at this machine's disks. Raises as ``wait``."""
        return await self.wait(_in(self.aside, call, *args, **named))

    async def have(self, entry: Entry) -> LoadReport:
        """Have an adapter on this disk, loaded and proved; those who ask meanwhile wait for the same load.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        return _loaded(await self.wait(self._load_once(entry)))

    async def replace(self, item: Item) -> None:
        """Have one that a client named under a name that may be known: it takes that once it is proved, not before.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        _loaded(await self.wait(self._replace(Entry(item, by_client=True))))

    def is_proved(self, entry: Entry) -> bool:
        """Whether the warm process that lives now has proved it; an eviction since then changes nothing of that."""
        process = self.process
        return process is not None and entry.proved_by == process.starts and process.pid is not None

    async def served(
        self, entry: Entry, use: Callable[[Job], Awaitable[T]], *, died_of_others: bool = False
    ) -> tuple[T, str, float]:
        """What ``use`` gives of an adapter that is proved, where it came from, and in how many milliseconds.

        "" and 0 when it was proved before. It is tried once more where its files went from this disk since (``cache
        rm`` takes what is in use, too), and with ``died_of_others`` where the warm process died of something else.

        Raises:
            LoraCliError: it cannot be loaded, or what ``use`` raises.
        """
        for last in (False, True):
            found, load_ms = await self._had(entry)
            job = entry.job
            assert job is not None
            try:
                return await use(job), found, load_ms
            except LoraCliError as error:
                again = died_of_others and not error.alone if isinstance(error, Died) else False
                if last or not (again or await self._taken_away(entry, job)):
                    raise
        raise AssertionError

    async def ask(self, name: str, message: object, heard: Callable[[Heard], None] = lambda _said: None) -> Asked:
        """Ask the warm process for something about an adapter that it has proved; its answer may be ``Died``.

        ``heard`` is called with what it reports before it ends. Asking starts a child that died, which takes seconds.
        """
        return await _in(self.asking, (await self._standing()).submit, name, message, heard)

    async def remove(self, name: str) -> None:
        """Forget an adapter, and let go of it wherever it is. Raises ``NotFound``."""
        entry = self.entries.remove(name)
        await self.in_thread(self._let_go, entry)

    def prefetch(self, names: Iterable[str], priority: int) -> None:
        """Have these loaded some time ahead of their requests. Raises ``NotFound``."""
        for name in names:
            self._ahead.add(self.entries.of(name).item.name, priority)

    def used(self, entry: Entry, tier: str) -> None:
        """Book one request, whose adapter was found in ``tier``."""
        entry.requests += 1
        entry.last_used = time.time()
        self.counters.requests[tier] += 1

    async def remember(self) -> Past | None:
        """What a server after this one, and a child after this child, should know; None while nothing is ready."""
        holdings, process = await self.looking.ask(with_history=True), self.process
        if holdings is None or process is None:
            return None
        keys = {entry.item.name: entry.job.key for entry in self.entries if entry.job is not None}
        self._past = Past(holdings.history, keys)
        process.plan = replace(process.plan, history=holdings.history)
        return self._past

    async def supervise(self) -> None:
        """Start the child again when it is gone, and load what was hot into each, also one that a request started.

        Raises what keeps it from standing.
        """
        process = self.process
        if process is None or self.stopping.is_set():
            return
        if process.pid is None:
            await _in(self.asking, process.revive)
        if process.starts != self._loaded_for:
            self.load_first()

    async def close(self) -> None:
        """End the warm process, also one that is still starting; waiting callers get an error."""
        self._ahead.close()
        await asyncio.to_thread(self._admissions.close)
        self._failure = self._failure or Unreachable("the server is stopping")
        self._settled.set()
        if self._laid_out is not None:
            await asyncio.to_thread(self._laid_out.close)

    def stop(self) -> None:
        """Bring and validate nothing more, at once; waiting callers get an error."""
        self.stopping.set()
        self.aside.submit(self._admissions.close)

    def _load_once(self, entry: Entry) -> "asyncio.Task[LoadReport]":
        """Its load: the one that is under way, or a new one."""
        if entry.loading is None or entry.loading.done():
            entry.loading = asyncio.create_task(self._load(entry))
        return entry.loading

    async def _load(self, entry: Entry) -> LoadReport:
        """Bring, load and prove one adapter; its report says what went wrong. What failed recently is not tried.

        What a client named and never worked is forgotten: vLLM registers nothing when a load fails.
        """
        if entry.report is not None and self.is_proved(entry):
            return entry.report
        if entry.failure is not None and entry.retry_in_s > 0:
            return entry.failure
        report = await self._try_to_load(entry)
        entry.tried(report)
        if report.error and entry.by_client and not entry.worked:
            self.entries.drop(entry)
        return report

    async def _try_to_load(self, entry: Entry) -> LoadReport:
        """The same, whatever failed before, and without remembering what fails now; it waits for the warm process."""
        report, job = await self._brought(entry)
        if job is not None:
            try:
                process = await self._standing()
                loaded = await _in(self._loads, process.load, job)
                entry.proved_by = 0 if loaded.error else process.starts
            except LoraCliError as error:
                loaded = LoadReport(job.name, job.digest).failed("start", error)
            report = continued(report, loaded)
        if report.error:
            entry.job = None  # the next try begins at its origin: this snapshot may be gone
        entry.report, entry.worked = report, entry.worked or not report.error
        self.counters.load(report)
        return report

    async def _standing(self) -> WarmProcess:
        """The warm process, as soon as it is ready. Raises what keeps it from standing."""
        await self._settled.wait()
        if self.process is None:
            assert self._failure is not None
            raise self._failure
        return self.process

    async def _brought(self, entry: Entry) -> tuple[LoadReport, Job | None]:
        """It on this disk, and validated there. What was validated before is not read again."""
        if entry.job is not None:
            before = entry.report or LoadReport(entry.item.name, entry.job.digest)
            digest, applied, copied_to = entry.job.digest, before.applied, before.copied_to
            return LoadReport(entry.item.name, digest, applied=applied, copied_to=copied_to), entry.job
        admitted = await _in(self._loads, self._admissions.admit, entry.item, by_client=entry.by_client)
        entry.job, entry.needs, entry.remote = admitted.job, admitted.needs, not admitted.cached
        return admitted.report, admitted.job

    async def _bring(self, entry: Entry) -> None:
        """Have it on this disk, ahead of its load; what kept it from that is remembered."""
        report, job = await self._brought(entry)
        entry.report = report
        if job is None:
            self.counters.load(report)
            entry.tried(report)

    async def _replace(self, entry: Entry) -> LoadReport:
        report = await self._try_to_load(entry)
        if not report.error:
            known = self.entries.put(entry)
            if known is not None:
                await _in(self.aside, self._let_go, known)
        return report

    async def _had(self, entry: Entry) -> tuple[str, float]:
        """Have it proved. Where it came from, and in how many milliseconds; "" and 0 when it was proved before."""
        if self.is_proved(entry):
            return "", 0.0
        began = time.perf_counter()
        is_new = entry.job is None
        report = await self.have(entry)
        return "remote" if is_new and entry.remote else report.tier, (time.perf_counter() - began) * 1e3

    async def _taken_away(self, entry: Entry, job: Job) -> bool:
        """Whether ``job``'s files went from this disk since it was proved; its next load begins at its origin then."""
        if await self.in_thread(job.directory.is_dir):
            return False
        if entry.job is job:
            entry.job, entry.proved_by = None, 0
        return True

    async def _load_ahead(self, name: str) -> None:
        """Load and prove while slots are free, else only read into memory."""
        with suppress(LoraCliError):
            entry = self.entries.of(name)
            holdings = await self.looking.ask()
            if holdings is None or len(holdings.gpu) < self.slots or entry.item.pinned:
                await self._load_once(entry)
            elif entry.retry_in_s == 0 and not self.is_proved(entry):
                await self._bring(entry)
                if entry.job is not None:
                    asked = await self.ask(name, Prefetch(entry.job))
                    await asyncio.wrap_future(asked.future)

    def _by_heat(self) -> list[Entry]:
        """Pinned adapters first, then those with known rates, then the others as the manifest has them."""
        place = {name: number for number, name in enumerate(self._past.hottest())}
        return sorted(self.entries, key=lambda entry: (not entry.item.pinned, place.get(entry.item.name, len(place))))

    def _let_go(self, entry: Entry) -> None:
        """Drop it from the tiers, unless another name has the same bytes."""
        job, process = entry.job, self.process
        if job is None or process is None or process.pid is None:
            return
        if not any(other.job is not None and other.job.key == job.key for other in self.entries):
            process.submit(job.name, Drop(job.key))


def _in(threads: Executor, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> "asyncio.Future[T]":
    return asyncio.get_running_loop().run_in_executor(threads, partial(call, *args, **named))


def _loaded(report: LoadReport) -> LoadReport:
    if report.error:
        raise error_of(report)
    return report


def _seen(future: "asyncio.Future[T]") -> None:
    """If no caller is left, its error is not logged."""
    if not future.cancelled():
        future.exception()
