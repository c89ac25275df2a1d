"""The processes that fetch and validate adapters for a server: whatever an adapter does to them, it does to no other.

The server's own process neither reads nor parses anything of an adapter. What kills one of these, or takes it too long
or too much memory, fails alone (``serving.admissions``).
"""

import contextlib
import logging
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_cli.core.adapter import Adapter
from lora_cli.core.log import logger
from lora_cli.core.results import LoadReport
from lora_cli.errors import ERRORS, LoraCliError, MachineError, Refused
from lora_cli.fetching import FetchContext
from lora_cli.runtime.admitted import reported
from lora_cli.runtime.composable import largest_rank
from lora_cli.runtime.messages import Logged, Stage
from lora_cli.runtime.parent import Parent, Send
from lora_cli.serving.admission_requests import Copied, CopyOut, Fetch, Fetched, Judge, Judged, Setup
from lora_cli.serving.roots import allowed
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.holds import holding
from lora_cli.validation.admission import Admission, fetch_in, judge_in
from lora_cli.validation.verdict import Terms

LONGEST_TEXT = 2000
"""Characters of a message or hint that leave this process: names in an adapter may have millions."""

LARGEST_ADAPTER = 128 << 20
"""Bytes of what the header of an accepted adapter says, pickled: the server keeps them."""

log = logger(__name__)


class AdmissionWorker:
    """Does what is asked, in several threads; nothing it raises but ``LoraCliError`` is foreseen."""

    def __init__(self, setup: Setup, store: Store, hold: Any) -> None:
        self._setup, self._store, self._hold = setup, store, hold
        self._terms = Terms(setup.base, max_lora_rank=setup.max_lora_rank)
        self._sources = Sources(setup.settings)
        self._below_roots = Sources(setup.settings, roots=setup.roots)

    def fetch(self, request: Fetch, hear: Callable[[str], None]) -> Fetched:
        """Bring it into the cache. What a client named must be allowed at each fetch: a link may lead elsewhere now."""
        item, settings, source = request.item, self._setup.settings, request.item.source
        if request.by_client:
            source = allowed(str(source), self._setup.roots, settings)
        sources = self._below_roots if request.by_client else self._sources
        with FetchContext(self._store, settings, hold=self._hold, sources=sources) as context:
            asked = replace(item, source=source)
            admission = fetch_in(asked, context, hear=lambda stage, _snapshot: hear(stage))
        report = LoadReport(item.name, stage_ms=admission.stage_ms)
        if admission.error is not None:
            return Fetched(report.failed(admission.stage, admission.error))
        assert admission.snapshot is not None
        report = replace(report, digest=admission.snapshot.digest)
        return Fetched(report, admission.snapshot.size, admission.cached, pickle.dumps(admission))

    def judge(self, request: Judge, hear: Callable[[str], None]) -> Judged:
        """Validate it where it lies in the cache."""
        settings, base = self._setup.settings, self._setup.base
        fetched: Admission = pickle.loads(request.admission)  # noqa: S301 - of our own process
        admission = judge_in(fetched, self._terms, settings, hear=lambda stage, _snapshot: hear(stage))
        report, job = reported(request.item, admission)
        if job is None:
            return Judged(report)
        data = _sealed(job.adapter)
        modules = frozenset(job.adapter.pairs).intersection(base.modules)
        return Judged(report, job.directory, data, largest_rank(job.adapter, base), modules)

    def copy_out(self, request: CopyOut, hear: Callable[[str], None]) -> Copied:
        """Copy it to where the server was told to."""
        assert self._setup.copy is not None
        hear("tier")
        admission = self._setup.copy(self._store, pickle.loads(request.admission))  # noqa: S301 - of our own process
        report = LoadReport(admission.name, stage_ms=admission.stage_ms, copied_to=str(admission.copied_to or ""))
        return Copied(report if admission.error is None else report.failed(admission.stage, admission.error))


ANSWERS: Mapping[type, Callable[[AdmissionWorker, Any, Callable[[str], None]], Fetched | Judged | Copied]] = {
    Fetch: AdmissionWorker.fetch,
    Judge: AdmissionWorker.judge,
    CopyOut: AdmissionWorker.copy_out,
}


def _sealed(adapter: Adapter) -> bytes:
    """What the runtime reads of it, pickled. Raises ``Refused`` where that is too much to keep."""
    data = pickle.dumps(replace(adapter, files=(), metadata={}))
    if len(data) > LARGEST_ADAPTER:
        raise Refused(
            f"{adapter.name}: its header describes {len(adapter.tensors)} tensors, too many to serve",
            hint="max_header_bytes refuses such a file earlier",
        )
    return data


def main(descriptor: int) -> None:
    """The whole life of such a process: hear what it is for, then answer requests until the parent is gone."""
    parent = Parent(descriptor)
    with contextlib.suppress(OSError):
        # Where memory runs out, the kernel ends this process rather than the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    number, setup = parent.receive()
    logging.getLogger().handlers = [_Passing(parent.reply(0))]
    logging.getLogger("lora_cli").setLevel(setup.log_level)
    store = Store(setup.settings.cache_dir)
    with holding(store) as hold, ThreadPoolExecutor(setup.threads, "adapter") as threads:
        worker = AdmissionWorker(setup, store, hold)
        parent.reply(number)(True)
        threading.Thread(target=_live, args=(parent.reply(0),), name="alive", daemon=True).start()
        while True:
            try:
                number, request = parent.receive()
            except EOFError:
                # What is under way is for nobody any more.
                hold.end()
                os._exit(0)
            threads.submit(_answered, worker, request, parent.reply(number))


def _live(send: Send) -> None:
    """Say each second that this process lives: one whose interpreter is held by one call cannot."""
    while True:
        time.sleep(1)
        send(None)


def _answered(worker: AdmissionWorker, request: Any, send: Send) -> None:
    """Handle one request. A process that ran out of memory ends: the next request gets a new one."""
    try:
        send(_handled(worker, request, send))
    except MemoryError:
        send(MachineError("the machine has no memory left to read it", hint="fewer adapters at once need less"))
        os._exit(1)


def _handled(worker: AdmissionWorker, request: Any, send: Send) -> object:
    try:
        answer = ANSWERS[type(request)](worker, request, lambda stage: send(Stage(stage)))
    except LoraCliError as error:
        kind = ERRORS.get(error.exit_code, LoraCliError)
        return kind(_clipped(error.message), hint=_clipped(error.hint))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary of the process: a bug fails one adapter alone
        # Where, and not what it says: that may have been made by who made the adapter.
        where = "".join(traceback.format_tb(error.__traceback__))[-LONGEST_TEXT:]
        log.error("a bug of lora-cli: %s at\n%s", type(error).__name__, where)  # noqa: TRY400 - see above
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
