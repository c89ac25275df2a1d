"""The adapters of a server: each is fetched, validated, loaded and proved once, at its first request or ahead of it."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

from lora_cli.errors import LoraCliError, NotFound, Unreachable
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.runtime.child_process import ProcessDied
from lora_cli.runtime.load_jobs import merge_reports
from lora_cli.runtime.messages import Drop, LoraRequest, Prefetch, Ready, RowEvent
from lora_cli.runtime.plan import SlotRequirements
from lora_cli.runtime.warm_process import WarmProcess
from lora_cli.serving.adapter_state import AdapterRegistry, AdapterState, Counters
from lora_cli.serving.admissions import FETCH_AT_ONCE, Admissions
from lora_cli.serving.cached_status import TierStatusCache
from lora_cli.serving.responses import load_error

P = ParamSpec("P")
T = TypeVar("T")

OpenProcess = Callable[[Sequence[SlotRequirements]], WarmProcess]

AHEAD_AT_ONCE = 2
"""Adapters loaded ahead at once, besides those that a request waits for."""


class AdapterManager:
    """The state of each adapter, and the warm process, which ``start`` starts.

    Everything runs in the server's event loop, except blocking calls: ``_load_threads`` fetch and load adapters,
    ``request_threads`` send messages to the warm process, and ``disk_threads`` access this machine's disks.

    ``admissions`` fetches and validates adapters. ``open_process`` creates the warm process from the requirements of
    the adapters that are on this disk by then. At the start ``max_loras`` adapters are loaded and proved: the pinned
    ones first, then the others in their order. ``max_cpu_loras`` in all are read into memory; the others are loaded at
    their first request. ``process`` is None until the warm process is ready. ``stopping`` is set when the
    server is asked to stop. ``placing`` counts the adapters that are loaded into a slot and proved now; ``on_placed``
    is called when one has ended.
    """

    def __init__(
        self,
        items: Iterable[Request],
        admissions: Admissions,
        open_process: OpenProcess,
        *,
        max_loras: int,
        max_cpu_loras: int,
    ) -> None:
        self.adapters, self.counters = AdapterRegistry(items), Counters()
        self.process: WarmProcess | None = None
        self.stopping = asyncio.Event()
        self.tier_status = TierStatusCache(lambda: self.process)
        self.request_threads, self.disk_threads, self._load_threads = (
            ThreadPoolExecutor(FETCH_AT_ONCE, name) for name in ("request", "disk", "load")
        )
        self._admissions, self._open = admissions, open_process
        self.max_loras, self._max_cpu_loras = max_loras, max_cpu_loras
        self._new_process: WarmProcess | None = None
        self._failure: LoraCliError | None = None
        self._start_ended = asyncio.Event()
        self._ahead: deque[str] = deque()
        self._loaders: list[asyncio.Task[None]] = []
        self._first_tried = False
        self._loaded_for = 0
        self.placing = 0
        self.on_placed: Callable[[], None] = lambda: None

    @property
    def ready(self) -> bool:
        """Whether the warm process runs and the initial loads have ended."""
        return self._first_tried and self.process is not None and self.process.is_started

    @property
    def queued(self) -> int:
        """The number of adapters waiting to be loaded ahead or being loaded for a request."""
        return len(self._ahead) + sum(one.loading is not None and not one.loading.done() for one in self.adapters)

    async def start(self) -> Ready:
        """Fetch and validate the first adapters, start the warm process with slots for them, and load them.

        Raises:
            LoraCliError: the warm process cannot start.
        """
        await asyncio.gather(*map(self._admit_ahead, self._pinned_first()[: self._max_cpu_loras]))
        try:
            process = self._new_process = self._open([one.needs for one in self.adapters if one.needs is not None])
            ready = await _run_in(self.request_threads, process.start)
        except LoraCliError as error:
            self._failure = error
            self._start_ended.set()
            raise
        self.process = process
        self._start_ended.set()
        self.load_first()
        return ready

    def load_first(self) -> None:
        """Load the first adapters ahead of their requests, a few at once: at the start, and after a restart."""
        self._loaded_for = self.process.starts if self.process is not None else 0
        self._ahead = deque(adapter.item.name for adapter in self._pinned_first()[: self._max_cpu_loras])
        self._loaders = [task for task in self._loaders if not task.done()]
        for _ in range(AHEAD_AT_ONCE - len(self._loaders)):
            self._loaders.append(asyncio.create_task(self._load_all_ahead()))

    async def wait_for_first(self) -> None:
        """Wait until the initial loads have ended."""
        while loading := [task for task in self._loaders if not task.done()]:
            await asyncio.wait(loading)
        self._first_tried = True

    async def wait(self, awaited: Awaitable[T]) -> T:
        """Wait for a result that others may share: a client that disconnects does not cancel it.

        Raises:
            Unreachable: the server is stopping.
        """
        waited, stopping = asyncio.ensure_future(awaited), asyncio.ensure_future(self.stopping.wait())
        waited.add_done_callback(_retrieve_exception)
        try:
            await asyncio.wait((waited, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not waited.done():
            raise Unreachable("the server is stopping")
        return waited.result()

    async def in_thread(self, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Run a call that may access this machine's disks in a thread. Raises as ``wait``."""
        return await self.wait(_run_in(self.disk_threads, call, *args, **named))

    async def ensure_loaded(self, adapter: AdapterState) -> LoadReport:
        """Fetch, validate, load and prove an adapter; concurrent callers share one load.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        return _raise_if_failed(await self.wait(self._load_once(adapter)))

    async def replace(self, item: Request) -> None:
        """Load an adapter for a client; it takes over its name once it is proved, not before, and is pinned as before.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        with suppress(NotFound):
            item = replace(item, pinned=self.adapters.of(item.name).item.pinned)
        _raise_if_failed(await self.wait(self._replace(AdapterState(item, by_client=True))))

    def is_proved(self, adapter: AdapterState) -> bool:
        """Whether the running warm process has proved it, evicted since or not."""
        process = self.process
        return process is not None and adapter.proved_by == process.starts and process.pid is not None

    async def with_adapter(
        self, adapter: AdapterState, use: Callable[[LoraRequest], Awaitable[T]], *, died_of_others: bool = False
    ) -> tuple[T, str, float]:
        """The result of ``use`` with a proved adapter, the tier it was loaded from, and the milliseconds of that load.

        "" and 0 if it was proved before. ``use`` is retried once if the adapter's files were removed since (``cache
        rm`` removes files in use, too), and with ``died_of_others`` if the warm process died of another request.

        Raises:
            LoraCliError: it cannot be loaded, or the error of ``use``.
        """
        for last in (False, True):
            found, load_ms = await self._ensure_proved(adapter)
            lora = adapter.lora
            assert lora is not None
            try:
                return await use(lora), found, load_ms
            except LoraCliError as error:
                again = died_of_others and not error.only_request if isinstance(error, ProcessDied) else False
                if last or not (again or await self._files_removed(adapter, lora)):
                    raise
        raise AssertionError

    async def ask(
        self, name: str, message: object, on_event: Callable[[RowEvent], None] = lambda _said: None
    ) -> object:
        """Send a message about the adapter ``name`` to the warm process, restarted if it died; returns its answer.

        ``on_event`` is called with the events before the answer.

        Raises:
            LoraCliError: the process's error, ``ProcessDied``, or why it cannot be started.
        """
        process = await self._wait_for_process()
        asked = await _run_in(self.request_threads, process.submit, name, message, on_event)
        return await asyncio.wrap_future(asked.future)

    async def remove(self, name: str) -> None:
        """Remove an adapter, also from the tiers. Raises ``NotFound``."""
        adapter = self.adapters.remove(name)
        await self.in_thread(self._unload, adapter)

    def record_request(self, adapter: AdapterState, tier: str) -> None:
        """Count one request whose adapter was found in ``tier``."""
        adapter.requests += 1
        adapter.last_used = time.time()
        self.counters.requests[tier] += 1

    async def supervise(self) -> None:
        """Restart a child that died, and load the first adapters into every new child, also one that a request started.

        Raises:
            LoraCliError: it cannot start.
        """
        process = self.process
        if process is None or self.stopping.is_set():
            return
        if process.pid is None:
            await _run_in(self.request_threads, process.ensure_running)
        if process.starts != self._loaded_for:
            self.load_first()

    async def close(self) -> None:
        """Close the warm process, also one that is still starting; waiting callers get an error."""
        for task in self._loaders:
            task.cancel()
        await asyncio.to_thread(self._admissions.close)
        self._failure = self._failure or Unreachable("the server is stopping")
        self._start_ended.set()
        if self._new_process is not None:
            await asyncio.to_thread(self._new_process.close)

    def stop(self) -> None:
        """Stop fetching and validating at once; waiting callers get an error."""
        self.stopping.set()
        self.disk_threads.submit(self._admissions.close)

    def _load_once(self, adapter: AdapterState) -> "asyncio.Task[LoadReport]":
        """The load under way, or a new one."""
        if adapter.loading is None or adapter.loading.done():
            adapter.loading = asyncio.create_task(self._load(adapter))
        return adapter.loading

    async def _load(self, adapter: AdapterState) -> LoadReport:
        """Load one adapter, unless it is proved or its backoff has not ended. Errors are in the report.

        A client's adapter that never loaded is removed: vLLM registers nothing when a load fails.
        """
        if adapter.report is not None and self.is_proved(adapter):
            return adapter.report
        if adapter.failure is not None and adapter.retry_in_s > 0:
            return adapter.failure
        report = await self._try_to_load(adapter)
        adapter.record_result(report)
        if report.error and adapter.by_client and not adapter.ever_loaded:
            self.adapters.drop(adapter)
        return report

    async def _try_to_load(self, adapter: AdapterState) -> LoadReport:
        """Fetch, validate, load and prove one adapter, whatever failed before. Waits for the warm process."""
        report, lora = await self._admit(adapter)
        if lora is not None:
            try:
                process = await self._wait_for_process()
                loaded = await self._place(process, lora)
                adapter.proved_by = 0 if loaded.error else process.starts
            except LoraCliError as error:
                loaded = LoadReport(lora.name, lora.digest).failed("start", error)
            report = merge_reports(report, loaded)
        if report.error:
            adapter.lora = None  # the next attempt fetches it again: this snapshot may be gone
        adapter.report, adapter.ever_loaded = report, adapter.ever_loaded or not report.error
        self.counters.load(report)
        return report

    async def _wait_for_process(self) -> WarmProcess:
        """The warm process, as soon as it is ready. Raises why it cannot start."""
        await self._start_ended.wait()
        if self.process is None:
            assert self._failure is not None
            raise self._failure
        return self.process

    async def _admit(self, adapter: AdapterState) -> tuple[LoadReport, LoraRequest | None]:
        """Fetch and validate an adapter, unless that was done before."""
        if adapter.lora is not None:
            before = adapter.report or LoadReport(adapter.item.name, adapter.lora.digest)
            return LoadReport(adapter.item.name, adapter.lora.digest, applied=before.applied), adapter.lora
        admitted = await _run_in(self._load_threads, self._admissions.admit, adapter.item, by_client=adapter.by_client)
        adapter.lora, adapter.needs, adapter.remote = admitted.lora, admitted.needs, not admitted.cached
        return admitted.report, admitted.lora

    async def _admit_ahead(self, adapter: AdapterState) -> None:
        """Fetch and validate an adapter ahead of its load; a failure is recorded."""
        report, lora = await self._admit(adapter)
        adapter.report = report
        if lora is None:
            self.counters.load(report)
            adapter.record_result(report)

    async def _replace(self, adapter: AdapterState) -> LoadReport:
        report = await self._try_to_load(adapter)
        if not report.error:
            known = self.adapters.put(adapter)
            if known is not None:
                await _run_in(self.disk_threads, self._unload, known)
        return report

    async def _ensure_proved(self, adapter: AdapterState) -> tuple[str, float]:
        """Load it unless it is proved. The tier it came from and the milliseconds; "" and 0 if it was proved before."""
        if self.is_proved(adapter):
            return "", 0.0
        began = time.perf_counter()
        is_new = adapter.lora is None
        report = await self.ensure_loaded(adapter)
        return "remote" if is_new and adapter.remote else report.tier, (time.perf_counter() - began) * 1e3

    async def _files_removed(self, adapter: AdapterState, lora: LoraRequest) -> bool:
        """Whether the adapter's files were removed since it was proved; its next load then fetches it again."""
        if await self.in_thread(lora.directory.is_dir):
            return False
        if adapter.lora is lora:
            adapter.lora, adapter.proved_by = None, 0
        return True

    async def _place(self, process: WarmProcess, lora: LoraRequest) -> LoadReport:
        """Load and prove it in a slot."""
        self.placing += 1
        try:
            return await _run_in(self._load_threads, process.load, lora)
        finally:
            self.placing -= 1
            self.on_placed()

    async def _load_all_ahead(self) -> None:
        while self._ahead:
            await self._load_ahead(self._ahead.popleft())

    async def _load_ahead(self, name: str) -> None:
        """Load and prove if a slot is free, else only read into memory."""
        with suppress(LoraCliError):
            adapter = self.adapters.of(name)
            contents = await self.tier_status.refresh()
            if contents is None or len(contents.gpu) < self.max_loras or adapter.item.pinned:
                await self._load_once(adapter)
            elif adapter.retry_in_s == 0 and not self.is_proved(adapter):
                await self._admit_ahead(adapter)
                if adapter.lora is not None:
                    await self.ask(name, Prefetch(adapter.lora))

    def _pinned_first(self) -> list[AdapterState]:
        """Pinned adapters first, then the others in the manifest's order."""
        return sorted(self.adapters, key=lambda adapter: not adapter.item.pinned)

    def _unload(self, adapter: AdapterState) -> None:
        """Drop it from the tiers, unless another name shares its snapshot."""
        lora, process = adapter.lora, self.process
        if lora is None or process is None or process.pid is None:
            return
        if not any(other.lora is not None and other.lora.key == lora.key for other in self.adapters):
            process.submit(lora.name, Drop(lora.key))


def _run_in(threads: Executor, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> "asyncio.Future[T]":
    return asyncio.get_running_loop().run_in_executor(threads, partial(call, *args, **named))


def _raise_if_failed(report: LoadReport) -> LoadReport:
    if report.error:
        raise load_error(report)
    return report


def _retrieve_exception(future: "asyncio.Future[T]") -> None:
    """Mark an error as retrieved: asyncio logs it otherwise when no caller is left."""
    if not future.cancelled():
        future.exception()
