"""The child processes that fetch and validate adapters for a server.

The server's own process neither reads nor parses an adapter. An adapter that kills one of these processes, or takes too
much time or memory, fails alone (``serving.admissions``).
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

from lora_cli.adapter.adapter import Adapter
from lora_cli.engines import choose_engine
from lora_cli.errors import ERRORS, LoraCliError, MachineError, Refused
from lora_cli.fetching.context import FetchContext
from lora_cli.judging.judge import OnStage, Terms, fetch_one, judge_fetched
from lora_cli.judging.result import Result
from lora_cli.redaction import log_bug, logger
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.runtime.load_jobs import report_of_admission
from lora_cli.runtime.messages import Logged, OpaquePickle, Stage
from lora_cli.runtime.parent_connection import ParentConnection, Send
from lora_cli.runtime.plan import slot_requirements
from lora_cli.serving.admissions import AdmissionSettings, AdmissionStep, Admitted
from lora_cli.serving.path_allowlist import allowed_reference
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.locks import InUse

LONGEST_TEXT = 2000
"""Characters of a message or hint that leave this process: names in an adapter may have millions."""

LARGEST_ADAPTER = 128 << 20
"""Bytes of what the header of an accepted adapter says, pickled: the server keeps them."""

log = logger(__name__)


class AdmissionWorker:
    """Runs admission steps, in several threads. Any exception but ``LoraCliError`` is a bug."""

    def __init__(self, setup: AdmissionSettings, store: Store, hold: InUse) -> None:
        self._setup, self._store = setup, store
        engines = (choose_engine(setup.engine),) if setup.engine else ()
        self._terms = Terms(setup.base, engines=engines, deployment=setup.deployment)
        self._run = FetchContext(store, setup.settings, in_use=hold)
        below_roots = Sources(setup.settings, roots=setup.roots)
        self._by_client = FetchContext(store, setup.settings, in_use=hold, sources=below_roots)

    def answer(self, step: AdmissionStep, on_stage: OnStage) -> Admitted:
        """Run one step."""
        if step.admission is None:
            return self._fetch(step.item, on_stage, by_client=step.by_client)
        return self._validate(step.item, step.admission, on_stage)

    def _fetch(self, item: Request, on_stage: OnStage, *, by_client: bool) -> Admitted:
        """Fetch it into the cache. A source that a client named is checked at each fetch: a link may have changed."""
        if by_client:
            allowed = allowed_reference(str(item.source), self._setup.roots, self._setup.settings)
            item = replace(item, source=allowed)
        admission = fetch_one(item, self._by_client if by_client else self._run, on_stage)
        report = LoadReport(item.name, stage_ms=admission.stage_ms)
        if admission.error is not None:
            return Admitted(report.failed(admission.stage, admission.error))
        assert admission.snapshot is not None
        report = replace(report, digest=admission.snapshot.digest)
        kept = cast("Result", OpaquePickle(pickle.dumps(admission), hops=2))
        return Admitted(report, size=admission.snapshot.size, cached=admission.cached, admission=kept)

    def _validate(self, item: Request, fetched: Result, on_stage: OnStage) -> Admitted:
        """Validate the cached snapshot."""
        validated = judge_fetched(fetched, self._terms, self._setup.settings, on_stage)
        report, lora = report_of_admission(item, validated)
        if lora is None:
            return Admitted(report)
        # An engine reads the directory; only the warm process needs the description.
        described = pickle.dumps(None) if self._setup.engine else _pickled(lora.adapter)
        base = self._setup.base if not self._setup.engine else None
        needs = slot_requirements(lora.adapter, base) if base is not None else None
        return Admitted(report, replace(lora, adapter=cast("Adapter", OpaquePickle(described, hops=2))), needs)


def _pickled(adapter: Adapter) -> bytes:
    """The adapter's description for the runtime, pickled. Raises ``Refused`` if it is too large to keep."""
    data = pickle.dumps(replace(adapter, files=(), metadata={}))
    if len(data) > LARGEST_ADAPTER:
        raise Refused(
            f"{adapter.name}: its header describes {len(adapter.tensors)} tensors, too many to serve",
            hint="lower max_header_bytes to refuse such files earlier",
        )
    return data


def main(descriptor: int) -> None:
    """The process: reads its settings, then handles requests until the parent closes the connection."""
    parent = ParentConnection(descriptor)
    with contextlib.suppress(OSError):
        # Where memory runs out, the kernel ends this process rather than the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    requests = parent.requests()
    setup, send = next(requests)
    logging.getLogger().handlers = [_LogToParent(partial(parent.send, 0))]
    logging.getLogger("lora_cli").setLevel(setup.log_level)
    store = Store(setup.settings.cache_dir)
    with InUse(store) as hold, ThreadPoolExecutor(setup.threads, "adapter") as threads:
        worker = AdmissionWorker(setup, store, hold)
        send(True)
        threading.Thread(target=_send_heartbeats, args=(partial(parent.send, 0),), name="alive", daemon=True).start()
        for step, send in requests:
            threads.submit(_run_step, worker, step, send)
        # Nobody waits for the steps under way any more.
        hold.close()
        os._exit(0)


def _send_heartbeats(send: Send) -> None:
    """Send a sign of life each second; a process whose interpreter is blocked by one call sends none."""
    while True:
        time.sleep(1)
        send(None)


def _run_step(worker: AdmissionWorker, step: AdmissionStep, send: Send) -> None:
    """Handle one request. A process that ran out of memory ends: the next request gets a new one."""
    try:
        send(_result_or_error(worker, step, send))
    except MemoryError:
        send(MachineError("the machine ran out of memory while reading it", hint="load fewer adapters at once"))
        os._exit(1)


def _result_or_error(worker: AdmissionWorker, step: AdmissionStep, send: Send) -> object:
    try:
        answer = worker.answer(step, lambda stage: send(Stage(stage)))
    except LoraCliError as error:
        kind = ERRORS.get(error.exit_code, LoraCliError)
        return kind(_truncated(error.message), hint=_truncated(error.hint))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary of the process: a bug fails one adapter alone
        log_bug(log, error)
        kind = MachineError if isinstance(error, OSError) else LoraCliError
        return kind(f"{type(error).__name__}: {_truncated(str(error))}", hint="please report this")
    report = answer.report
    return replace(answer, report=replace(report, error=_truncated(report.error), hint=_truncated(report.hint)))


def _truncated(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


class _LogToParent(logging.Handler):
    """Sends log records to the parent, which has the log handlers."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(Logged(record.name, record.levelno, _truncated(record.getMessage())))
