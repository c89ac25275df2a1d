"""An engine's adapters by name: each fetched, verified and validated when a client first asks for it.

Nothing here knows an engine (``plugins.vllm`` and ``plugins.sglang`` do). All of it runs in the engine's event loop,
which never waits: the manifest is looked at in a thread, and adapters are fetched and validated in processes of their
own (``lora_cli.isolation``), where a bad one harms nothing.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lora_cli.documents.option_values import parse_duration
from lora_cli.engines import choose_engine
from lora_cli.errors import LoraCliError, NotFound
from lora_cli.finding import Deployment
from lora_cli.isolation import STATUS, Admission, Backoff, Isolation, Setup
from lora_cli.judging.read import open_base
from lora_cli.plugins.names import Known, Names
from lora_cli.redaction import logger
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.settings import RESOLVE_TIMEOUT
from lora_cli.store import InUse, Store
from lora_cli.text import cut

T = TypeVar("T")

LOOK_S = 1.0
"""The least interval between two checks of the manifest for changes, in seconds."""

LOOK_LIMIT_S = 5.0
"""The longest that a request waits for that check, for a file system may hang; then the last reading is used."""

PROCESSES = 8
"""Adapters that are fetched and validated at once."""

MOST_WAITING = 512
"""Adapters that are fetched or wait for it; beyond that, clients get 503."""

MOST_NAMES = 10_000
"""Names that are remembered besides those of a manifest: clients may request any name."""

WAIT_S = 300.0
"""The default of ``RESOLVE_TIMEOUT``: how long a request waits for its adapter."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """The running engine: NAME@VERSION, the base model that it was started with, and its limits (None: unknown)."""

    engine: str
    base: str
    deployment: Deployment | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """An adapter that the engine may load. ``directory`` is named after the digest of its files, and stays."""

    name: str
    directory: Path


class Unresolved(Exception):
    """The reason why a known adapter cannot be served to a client, with the HTTP ``status`` for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(slots=True)
class _Lookup(Backoff):
    """One name: its possible adapters, the processes that have the settings of its manifest, and the last result."""

    items: tuple[Request, ...]
    isolation: Isolation
    resolved: Resolved | None = None
    task: "asyncio.Task[LoadReport] | None" = None

    @property
    def idle(self) -> bool:
        return self.task is None or self.task.done()


class Resolver:
    """Finds the adapters of one ``running`` engine by name; it belongs to the event loop that first asks it.

    A request waits up to ``wait_s`` seconds for an adapter; fetching it goes on after that. ``observe`` is called after
    each attempt, with whether the manifest has the adapter.
    """

    def __init__(
        self, names: Names, running: Running, wait_s: float, observe: Callable[[Admission, bool], None]
    ) -> None:
        self._names, self._running, self._wait_s, self._observe = names, running, wait_s, observe
        self._asked: OrderedDict[str, _Lookup] = OrderedDict()
        self._threads = ThreadPoolExecutor(2, "lora-cli")
        self._known: Known | None = None
        self._isolation: Isolation | None = None
        self._fingerprint: object = None
        self._look: asyncio.Task[None] | None = None
        self._look_at = 0.0
        self._hold: InUse | None = None
        self._broken = ""
        self._waiting = 0

    async def resolve(self, name: str) -> Resolved | None:
        """The adapter of that name, on this disk and validated for the engine; None for an unknown name.

        Concurrent requests share one attempt, which continues when a client disconnects. A resolved name never waits
        for others.

        Raises:
            Unresolved: it is known, but cannot be served, or not yet.
        """
        await self._look_for_changes()
        known, isolation, asked = self._known, self._isolation, self._asked.get(name)
        if known is None or isolation is None:
            raise Unresolved(503, "the adapters of this server cannot be read; see its log")
        items = known.find(name)
        if not items:
            return None
        if asked is None or asked.items != items or asked.isolation is not isolation:
            asked = self._asked[name] = _Lookup(items, isolation)
        self._asked.move_to_end(name)
        if len(self._asked) > MOST_NAMES + len(known.items):
            oldest = next((one for one, other in self._asked.items() if other.idle and one != name), "")
            self._asked.pop(oldest, None)
        if asked.resolved is not None and await self._in_thread(asked.resolved.directory.is_dir):
            return asked.resolved
        if asked.idle:
            if asked.failure is not None and asked.retry_in_s > 0:
                raise _unresolved(asked, asked.failure)
            if self._waiting >= MOST_WAITING:
                raise Unresolved(503, f"{name}: {self._waiting} adapters are being fetched; retry in 5 s")
            asked.resolved = None
            self._waiting += 1
            asked.task = asyncio.create_task(self._attempt(asked))
        assert asked.task is not None
        await asyncio.wait((asked.task,), timeout=self._wait_s)
        if not asked.task.done():
            raise Unresolved(503, f"{name} is still being fetched after {self._wait_s:g} s; retry in 5 s")
        report = asked.task.result()
        if asked.resolved is None:
            raise _unresolved(asked, report)
        return asked.resolved

    async def close(self) -> None:
        """Ends the processes and releases the adapters; later requests fail."""
        if self._look is not None:
            await asyncio.wait((self._look,))
        if self._isolation is not None:
            await self._in_thread(self._isolation.close)
        if self._hold is not None:
            self._hold.close()
        self._threads.shutdown(wait=False)

    async def _attempt(self, asked: _Lookup) -> LoadReport:
        """Fetches and validates one adapter, from the first source that has it. An error is in the report."""
        loop, isolation = asyncio.get_running_loop(), asked.isolation
        try:
            for item in asked.items:
                admission = await loop.run_in_executor(isolation.threads, isolation.admit, item)
                if admission.report.exit_code != NotFound.exit_code:
                    break
        finally:
            self._waiting -= 1
        report = admission.report
        asked.record_result(report)
        if report.error:
            log.warning("%s is not served: %s", report.name, _with_hint(report))
        else:
            asked.resolved = Resolved(report.name, Path(admission.directory))
            if report.signers:
                log.info("%s: signed by %s", report.name, ", ".join(report.signers))
        self._observe(admission, self._known is not None and report.name in self._known.items)
        return report

    async def _look_for_changes(self) -> None:
        """Reads the manifest again if it changed, but does not wait long for that once it was read."""
        if self._look is None and time.monotonic() >= self._look_at:
            self._look = asyncio.create_task(self._reload())
        if self._look is not None:
            await asyncio.wait((self._look,), timeout=LOOK_LIMIT_S if self._known is not None else None)

    async def _reload(self) -> None:
        """Reads the manifest again if it changed. If it has an error, the last reading stays; it is logged once."""
        try:
            fingerprint = await self._in_thread(self._names.fingerprint)
            if fingerprint == self._fingerprint:
                return
            known, before = await self._in_thread(self._names.read), self._isolation
            if self._known is None or known.settings != self._known.settings:
                self._isolation = await self._in_thread(lambda: self._opened(known))
            self._known, self._fingerprint, self._broken = known, fingerprint, ""
            log.info("%d adapters can be resolved by name", len(known.items))
            if before is not None and before is not self._isolation:
                await self._in_thread(before.close)  # who waits there is told to ask again
        except LoraCliError as error:
            if error.message != self._broken:
                log.error("%s; %s", error.message, error.hint)  # noqa: TRY400 - a file of the operator's is wrong
            self._broken = error.message
        finally:
            self._look, self._look_at = None, time.monotonic() + LOOK_S

    def _opened(self, known: Known) -> Isolation:
        """The processes that fetch and validate adapters for the running engine."""
        settings, running, base = known.settings, self._running, None
        self._hold = self._hold or InUse(Store(settings.cache_dir))
        # The engine has read the base's config: the Hub is asked only if it is not in its cache.
        for offline in (True, settings.offline):
            with suppress(LoraCliError):
                base = base or open_base(running.base, replace(settings, offline=offline, policies=()))
        if base is None:
            log.warning("the config of the base %s cannot be read: adapters are validated without it", running.base)
        # Without a known limit the engine itself refuses what is above it.
        ranks = choose_engine(running.engine).engine.ranks
        rank = known.max_lora_rank or (max(ranks) if ranks else None)
        deployment = running.deployment or Deployment(max_lora_rank=rank)
        level = logging.getLevelName(logging.getLogger("lora_cli").getEffectiveLevel())
        setup = Setup(settings, base, running.engine, deployment, log_level=level)
        return Isolation(setup, self._hold, PROCESSES)

    def _in_thread(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._threads, call)


def resolver_for(running: Running, engine: logging.Logger) -> Resolver:
    """A resolver as the environment sets it up, which logs where ``engine`` does and counts in its registry."""
    from lora_cli.plugins.metrics import observe

    ours, theirs = logging.getLogger("lora_cli"), engine
    while not theirs.handlers and theirs.parent is not None:
        theirs = theirs.parent
    if not ours.handlers:
        ours.handlers, ours.propagate = list(theirs.handlers), False
        ours.setLevel(engine.getEffectiveLevel())
    text, wait_s = os.environ.get(RESOLVE_TIMEOUT, ""), WAIT_S
    try:
        wait_s = parse_duration(text) if text else WAIT_S
    except ValueError as error:
        log.warning("%s: %s; %g s is used", RESOLVE_TIMEOUT, error, WAIT_S)
    return Resolver(Names(os.environ), running, wait_s, observe)


def _with_hint(report: LoadReport) -> str:
    return f"{report.error} ({report.hint})" if report.hint else report.error


def _unresolved(asked: _Lookup, report: LoadReport) -> Unresolved:
    """The error of a failed attempt, for a client."""
    status, _kind = STATUS.get(report.exit_code, (500, ""))
    again = f"; retry in {max(1, round(asked.retry_in_s))} s" if status >= 500 else ""
    return Unresolved(status, f"{cut(report.name)}: {_with_hint(report)}{again}")
