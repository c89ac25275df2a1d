"""The processes that fetch and validate adapters for a server: an adapter that breaks one affects no other.

The server's own process neither reads nor parses anything of an adapter. What kills one of these, or takes it too long
or too much memory, fails alone (``serving.admissions``).
"""

import contextlib
import logging
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from lora_cli.core.adapter import Adapter
from lora_cli.core.adapter_request import Item
from lora_cli.core.log import log_bug, logger
from lora_cli.core.results import LoadReport
from lora_cli.engines import choose_engine
from lora_cli.errors import ERRORS, LoraCliError, MachineError, Refused
from lora_cli.fetching.context import FetchContext
from lora_cli.runtime.load_jobs import reported
from lora_cli.runtime.messages import Logged, Sealed, Stage
from lora_cli.runtime.parent_connection import Parent, Send
from lora_cli.runtime.plan import needs_of
from lora_cli.serving.admissions import Admitted, Setup, Step
from lora_cli.serving.path_allowlist import allowed
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from lora_cli.validation.fetch_and_validate import Admission, Hear, fetch_in, judge_in
from lora_cli.validation.verdict import Terms

LONGEST_TEXT = 2000
"""Characters of a message or hint that leave this process: names in an adapter may have millions."""

LARGEST_ADAPTER = 128 << 20
"""Bytes of what the header of an accepted adapter says, pickled: the server keeps them."""

log = logger(__name__)


class AdmissionWorker:
    """Does what is asked, in several threads; nothing it raises but ``LoraCliError`` is foreseen."""

    def __init__(self, setup: Setup, store: Store, hold: InUseMarker) -> None:
        self._setup, self._store = setup, store
        engines = (choose_engine(setup.engine),) if setup.engine else ()
        self._terms = Terms(setup.base, max_lora_rank=setup.max_lora_rank, engines=engines, deployment=setup.deployment)
        self._run = FetchContext(store, setup.settings, in_use=hold)
        self._below_roots = Sources(setup.settings, roots=setup.roots)

    def answer(self, step: Step, hear: Hear) -> Admitted:
        """What there is of an adapter after ``step``."""
        if step.admission is None:
            return self._fetch(step.item, hear, by_client=step.by_client)
        return (self._validate if step.stage == "validate" else self._copy)(step.item, step.admission, hear)

    def _fetch(self, item: Item, hear: Hear, *, by_client: bool) -> Admitted:
        """Bring it into the cache. What a client named must be allowed at each fetch: a link may lead elsewhere now."""
        settings, sources = self._setup.settings, self._run.sources
        if by_client:
            item, sources = (
                replace(item, source=allowed(str(item.source), self._setup.roots, settings)),
                self._below_roots,
            )
        with self._run.with_own_threads(sources) as context:
            admission = fetch_in(item, context, hear=hear)
        report = LoadReport(item.name, stage_ms=admission.stage_ms)
        if admission.error is not None:
            return Admitted(report.failed(admission.stage, admission.error))
        assert admission.snapshot is not None
        report = replace(report, digest=admission.snapshot.digest)
        kept = cast("Admission", Sealed(pickle.dumps(admission), hops=2))
        return Admitted(report, size=admission.snapshot.size, cached=admission.cached, admission=kept)

    def _validate(self, item: Item, fetched: Admission, hear: Hear) -> Admitted:
        """Validate it where it is in the cache."""
        report, job = reported(item, judge_in(fetched, self._terms, self._setup.settings, hear=hear))
        if job is None:
            return Admitted(report)
        adapter = cast("Adapter", Sealed(_pickled(job.adapter), hops=2))
        base = self._setup.base
        needs = needs_of(job.adapter, base) if base is not None else None
        return Admitted(report, replace(job, adapter=adapter), needs)

    def _copy(self, _item: Item, accepted: Admission, hear: Hear) -> Admitted:
        """Copy it to the configured folder."""
        assert self._setup.copy is not None
        hear("tier", None)
        admission = self._setup.copy(self._store, accepted)
        report = LoadReport(admission.name, stage_ms=admission.stage_ms, copied_to=str(admission.copied_to or ""))
        return Admitted(report if admission.error is None else report.failed(admission.stage, admission.error))


def _pickled(adapter: Adapter) -> bytes:
    """What the runtime reads of it, pickled. Raises ``Refused`` where that is too much to keep."""
    data = pickle.dumps(replace(adapter, files=(), metadata={}))
    if len(data) > LARGEST_ADAPTER:
        raise Refused(
            f"{adapter.name}: its header describes {len(adapter.tensors)} tensors, too many to serve",
            hint="max_header_bytes refuses such a file earlier",
        )
    return data


def main(descriptor: int) -> None:
    """The whole life of such a process: read its settings, then answer requests until the parent is gone."""
    parent = Parent(descriptor)
    with contextlib.suppress(OSError):
        # Where memory runs out, the kernel ends this process rather than the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    requests = parent.requests()
    setup, send = next(requests)
    logging.getLogger().handlers = [_Passing(partial(parent.send, 0))]
    logging.getLogger("lora_cli").setLevel(setup.log_level)
    store = Store(setup.settings.cache_dir)
    with InUseMarker(store) as hold, ThreadPoolExecutor(setup.threads, "adapter") as threads:
        worker = AdmissionWorker(setup, store, hold)
        send(True)
        threading.Thread(target=_live, args=(partial(parent.send, 0),), name="alive", daemon=True).start()
        for step, send in requests:
            threads.submit(_answered, worker, step, send)
        # What is under way is for nobody any more.
        hold.close()
        os._exit(0)


def _live(send: Send) -> None:
    """Say each second that this process lives: one whose interpreter is held by one call cannot."""
    while True:
        time.sleep(1)
        send(None)


def _answered(worker: AdmissionWorker, step: Step, send: Send) -> None:
    """Handle one request. A process that ran out of memory ends: the next request gets a new one."""
    try:
        send(_handled(worker, step, send))
    except MemoryError:
        send(MachineError("the machine ran out of memory while reading it", hint="load fewer adapters at once"))
        os._exit(1)


def _handled(worker: AdmissionWorker, step: Step, send: Send) -> object:
    try:
        answer = worker.answer(step, lambda stage, _snapshot: send(Stage(stage)))
    except LoraCliError as error:
        kind = ERRORS.get(error.exit_code, LoraCliError)
        return kind(_clipped(error.message), hint=_clipped(error.hint))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary of the process: a bug fails one adapter alone
        log_bug(log, error)
        kind = MachineError if isinstance(error, OSError) else LoraCliError
        return kind(f"{type(error).__name__}: {_clipped(str(error))}", hint="please report this")
    report = answer.report
    return replace(answer, report=replace(report, error=_clipped(report.error), hint=_clipped(report.hint)))


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


class _Passing(logging.Handler):
    """Hands what is logged to the parent, which has the handlers that people see."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Logged(record.name, record.levelno, _clipped(record.getMessage())))
