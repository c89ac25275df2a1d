"""The adapters of a server: each is absent, loading, ready or failed, and is loaded once for all who wait for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from lora_cli.adapter.reading import read_adapter
from lora_cli.errors import ERRORS, LoraCliError, MachineError, NotFound, UsageError
from lora_cli.isolation import Admission, Backoff, Isolation
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.sources.files import files_at
from lora_cli.text import cut
from lora_cli.warm.composed import Slot
from lora_cli.warm.metrics import Metrics
from lora_cli.warm.plan import LoraRequest
from lora_cli.warm.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")

LEASES = 8
"""Requests that wait for a slot at once."""


@dataclass(slots=True)
class AdapterState(Backoff):
    """One adapter: its request and its state.

    ``by_client`` says that a client registered it: each fetch then checks that its source is allowed. ``lora`` is the
    validated adapter on this disk, ``report`` that of the last load, ``proved`` whether this process has proved it,
    evicted since or not. ``remote`` says that it was downloaded, not cached.
    """

    request: Request
    by_client: bool = False
    lora: LoraRequest | None = None
    report: LoadReport | None = None
    proved: bool = False
    remote: bool = False
    requests: int = 0
    loading: "asyncio.Task[LoadReport] | None" = None

    @property
    def word(self) -> Literal["absent", "loading", "ready", "failed"]:
        """Its state in a word."""
        if self.proved or self.is_loading:
            return "ready" if self.proved else "loading"
        return "absent" if self.failure is None else "failed"

    @property
    def is_loading(self) -> bool:
        """Whether it is being fetched, validated, loaded or proved."""
        return self.loading is not None and not self.loading.done()


class Adapters:
    """The adapters by name, in the order of their registration. Everything runs in the server's event loop.

    ``crashed`` has, by digest, why the process died that loaded an adapter: it is not loaded again. ``tell`` tells the
    supervisor ``loading``, name and digest before an adapter is read, ``loaded`` when it is proved or failed, and what
    clients do: ``registered``, name, source and keep_loaded, or ``removed`` and name.
    """

    def __init__(
        self,
        requests: Iterable[tuple[Request, bool]],
        isolation: Isolation,
        crashed: Mapping[str, str],
        metrics: Metrics,
        tell: Callable[..., None],
    ) -> None:
        self._states = {one.name: AdapterState(one, by_client=by_client) for one, by_client in requests}
        self._isolation, self._crashed, self.metrics, self._tell = isolation, crashed, metrics, tell
        self.worker: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        # One adapter is loaded at a time: when the process dies meanwhile, that one is to blame.
        self._loader, self._leases = ThreadPoolExecutor(1, "load"), ThreadPoolExecutor(LEASES, "lease")

    def __iter__(self) -> Iterator[AdapterState]:
        """A snapshot of all adapters."""
        return iter(list(self._states.values()))

    def find(self, name: str) -> AdapterState | None:
        """The adapter ``name``, if there is one."""
        return self._states.get(name)

    def of(self, name: str) -> AdapterState:
        """The adapter ``name``. Raises ``NotFound``."""
        state = self._states.get(name)
        if state is None:
            raise NotFound(f"The model `{cut(name)}` does not exist.")
        return state

    async def load_first(self, most: int) -> None:
        """Load the first ``most`` adapters ahead of their requests, those to keep loaded first."""
        first = sorted(self, key=lambda state: not state.request.keep_loaded)[:most]
        await asyncio.gather(*(self._load_once(state) for state in first))

    async def add(self, request: Request, *, in_place: bool) -> None:
        """Register and load an adapter for a client. One of the same name and source is kept.

        With ``in_place`` it takes over its name once it is proved, not before, and is kept as before. Nothing is
        registered when the load fails, as in vLLM.

        Raises:
            UsageError: there is another one of that name.
            LoraCliError: it cannot be loaded.
        """
        before = self._states.get(request.name)
        if before is not None and not in_place:
            if str(before.request.source) != str(request.source):
                raise UsageError(
                    f"an adapter {request.name} from another source already exists",
                    hint='"load_inplace": true replaces it',
                )
            await self.ensure_loaded(before)
            return
        kept = request.keep_loaded if before is None else before.request.keep_loaded
        state = AdapterState(replace(request, keep_loaded=kept), by_client=True)
        self._states.setdefault(request.name, state)
        try:
            await self.ensure_loaded(state)
        except LoraCliError:
            if self._states.get(request.name) is state:
                del self._states[request.name]
            raise
        if self._states.get(request.name) is not (before or state):
            await self._drop(state)
            raise NotFound(f"{request.name} was unloaded while it was loaded")
        self._states[request.name] = state
        if before is not None:
            await self._drop(before)
        self._tell("registered", request.name, str(request.source), state.request.keep_loaded)

    async def remove(self, name: str) -> None:
        """Remove an adapter, also from the tiers. Raises ``NotFound``."""
        state = self.of(name)
        del self._states[name]
        self._tell("removed", name)
        if state.loading is not None:
            await asyncio.wait((state.loading,))  # what it has by then is dropped, too
        await self._drop(state)

    async def ensure_loaded(self, state: AdapterState) -> LoraRequest:
        """Fetch, validate, load and prove an adapter; concurrent callers share one load, which outlives them.

        Raises:
            LoraCliError: it cannot be loaded.
        """
        if not state.proved or state.lora is None:
            report = await asyncio.shield(self._load_once(state))
            if report.error:
                kind = ERRORS.get(report.exit_code, LoraCliError)
                where = f" at {report.stage}" if report.stage else ""
                message = f"{report.name} cannot be served: it failed{where}: {report.error}"
                raise kind(message, hint=report.hint)
        assert state.lora is not None
        return state.lora

    @asynccontextmanager
    async def slot(self, state: AdapterState) -> AsyncIterator[tuple[Slot, str, float]]:
        """A proved adapter's slot within the block, the tier where it was found, and the milliseconds of its load.

        When its files were removed (``cache rm`` removes those in use, too), the next request fetches them again.

        Raises:
            LoraCliError: it cannot be loaded, or no slot became free.
        """
        began = time.perf_counter()
        worker, was_proved = await asyncio.shield(self.worker), state.proved
        lora = await self.ensure_loaded(state)
        assert state.report is not None
        tier = worker.tier_of(lora) if was_proved else "remote" if state.remote else state.report.tier
        lease = ExitStack()
        leasing = _in(self._leases, lease.enter_context, worker.lease(lora))
        try:
            slot = await asyncio.shield(leasing)
        except asyncio.CancelledError:
            leasing.add_done_callback(lambda _leased: lease.close())
            raise
        except LoraCliError:
            state.proved = lora.directory.is_dir()
            raise
        state.requests += 1
        self.metrics.requests.labels(tier).inc()
        with lease:
            yield slot, tier, (time.perf_counter() - began) * 1e3

    def _load_once(self, state: AdapterState) -> "asyncio.Task[LoadReport]":
        """The load under way, or a new one."""
        if state.loading is None or state.loading.done():
            state.loading = asyncio.create_task(self._load(state))
        return state.loading

    async def _load(self, state: AdapterState) -> LoadReport:
        """Load one adapter, unless it is proved or its backoff has not ended. Errors are in the report."""
        if state.report is not None and state.proved:
            return state.report
        if state.failure is not None and state.retry_in_s > 0:
            return state.failure
        admission = await _in(self._isolation.threads, self._isolation.admit, state.request, by_client=state.by_client)
        report = admission.report
        try:
            worker = await self.worker
            if not report.error and (reason := self._crashed.get(report.digest)) is not None:
                raise MachineError(reason, hint="it is tried again when it has changed")
            if not report.error:
                report = await _in(self._loader, self._prove, worker, state, admission)
        except LoraCliError as error:
            report = report.failed("load", error)
        state.report, state.proved, state.remote = report, not report.error, not admission.cached
        state.record_result(report)
        self.metrics.loaded(report)
        return report

    def _prove(self, worker: Worker, state: AdapterState, admission: Admission) -> LoadReport:
        """Read, load and prove an adapter that was judged."""
        request, judged, directory = state.request, admission.report, Path(admission.directory)
        adapter = replace(read_adapter(files_at(directory), request.name), files=())
        state.lora = LoraRequest(request.name, directory, adapter, judged.digest, request.keep_loaded)
        try:
            loaded = worker.load(state.lora, lambda name, _stage: self._tell("loading", name, judged.digest))
        finally:
            self._tell("loaded")
        return loaded.after(judged)

    async def _drop(self, state: AdapterState) -> None:
        """Drop it from the tiers, unless another name shares its snapshot."""
        lora = state.lora
        shared = lora is not None and any(one.lora is not None and one.lora.key == lora.key for one in self)
        if lora is not None and not shared and self.worker.done():
            await _in(self._leases, self.worker.result().drop, lora.key)


def _in(threads: Executor, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> "asyncio.Future[T]":
    return asyncio.get_running_loop().run_in_executor(threads, partial(call, *args, **named))
