"""Adapters of strangers are fetched and judged in child processes, with limits of memory and time.

``python -m lora_cli.isolation`` reads a pickled ``Setup`` and then pickled requests from its parent, and answers each
with one line of JSON. An adapter that kills such a process, or takes too long, fails alone. Nothing of an engine is
imported there.
"""

import json
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from lora_cli.adapter import values  # noqa: F401 - the first request does not wait for numpy
from lora_cli.base.base_model import BaseModel
from lora_cli.engines import choose_engine
from lora_cli.errors import FormatError, MachineError, Refused, Unreachable, bug_of
from lora_cli.fetching.batch import FetchContext
from lora_cli.finding import Deployment
from lora_cli.judging.judge import fetch_one, judge_fetched
from lora_cli.judging.read import Terms
from lora_cli.judging.result import Result
from lora_cli.parse import json_object
from lora_cli.redaction import log_to_stderr, logger
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import InUse, Store

log = logger(__name__)

START_S = 10.0
"""How much later than by its own deadline a process is ended that does not come to set it."""

MEMORY_BYTES = 2 << 30
"""What such a process may allocate: a fetch takes up to 250 MiB, and values are read piece by piece."""

BUSY_S = 0.5
"""How long an adapter waits for a process that is busy: to start another one takes longer than most adapters do."""

GRACE_S = 10.0
"""After the adapter's own deadline, until the process is killed."""

LONGEST_TEXT = 2000
"""Characters of an error that are passed on: names in an adapter may have millions."""

STATUS: Mapping[int, tuple[int, str]] = {
    1: (422, "UnprocessableEntityError"),
    2: (400, "BadRequestError"),
    3: (404, "NotFoundError"),
    4: (503, "ServiceUnavailableError"),
    5: (502, "BadGatewayError"),
    6: (503, "ServiceUnavailableError"),
}
"""HTTP status and vLLM's name of it by the exit code that the error would end a command with."""

FIRST_S, LONGEST_S = 1.0, 300.0
"""An adapter that failed is tried again after 1 s, then 2, 4, … 300 s."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How adapters are fetched and judged: against ``base``, for ``engine`` (NAME@VERSION; "" is PEFT) as deployed.

    What clients ask for may be in local folders below ``roots`` only. Logs of ``log_level`` go to standard error.
    """

    settings: Settings
    base: BaseModel | None
    engine: str = ""
    deployment: Deployment = field(default_factory=Deployment)
    roots: tuple[Path, ...] = ()
    log_level: str = "WARNING"


@dataclass(frozen=True, slots=True)
class Admission:
    """One adapter, fetched and judged: the report so far, and the folder of its snapshot, if it passed.

    ``size`` is in bytes. ``cached`` says that nothing was downloaded.
    """

    report: LoadReport
    directory: str = ""
    size: int = 0
    cached: bool = False


@dataclass(slots=True, kw_only=True)
class Backoff:
    """The last failure of ``failures`` in a row, and the time (``time.monotonic``) of the next attempt."""

    failure: LoadReport | None = None
    failures: int = 0
    retry_at: float = 0.0

    def record_result(self, report: LoadReport) -> None:
        """Record the result of an attempt."""
        if not report.error:
            self.failure, self.failures, self.retry_at = None, 0, 0.0
            return
        wait_s = min(FIRST_S * 2.0 ** min(self.failures, 30), LONGEST_S)
        self.failure, self.failures, self.retry_at = report, self.failures + 1, monotonic() + wait_s

    @property
    def retry_in_s(self) -> float:
        """Seconds until the next attempt is allowed; 0 if it is now."""
        return max(0.0, self.retry_at - monotonic())


class Isolation:
    """Up to ``processes`` children, each of which admits one adapter at a time; one is started ahead. Threads share it.

    ``hold`` keeps the snapshots of admitted adapters in the cache.
    """

    def __init__(self, setup: Setup, hold: InUse, processes: int = 4) -> None:
        self.threads = ThreadPoolExecutor(processes, "isolation")
        self._setup, self._hold, self._closed = setup, hold, threading.Event()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: set[subprocess.Popen[bytes]] = set()
        with suppress(OSError):  # who asks is told
            self._idle.append(self._child())

    def admit(self, request: Request, *, by_client: bool = False) -> Admission:
        """Fetch and judge one adapter. Never raises: its error is in the report."""
        report, limit_s, child = LoadReport(request.name), self._setup.settings.adapter_timeout_s, None
        try:
            child = self._child()
            assert child.stdin is not None
            assert child.stdout is not None
            pickle.dump((request, by_client, limit_s + GRACE_S), child.stdin)
            child.stdin.flush()
            late = threading.Timer(limit_s + GRACE_S + START_S, child.kill)
            late.daemon = True
            late.start()
            try:
                fields = json_object(child.stdout.readline(), "its answer")
            finally:
                late.cancel()
            report = LoadReport(**fields.pop("report"))
        except (OSError, FormatError) as error:
            status = self._ended(child) if child is not None else 0
            if self._closed.is_set():
                return Admission(report.failed("fetch", Unreachable("the process that reads it was stopped")))
            if child is None:
                return Admission(report.failed("fetch", MachineError(f"no process can be started for it: {error}")))
            why = f"the process that reads it ended: it {cause_of_end(status)}"
            why = f"reading it takes longer than {limit_s:g} s" if status == -signal.SIGALRM else why
            return Admission(report.failed("fetch", Refused(why, hint="see lora-cli validate for its findings")))
        self._idle.append(child)
        if self._closed.is_set():
            self.close()
        if not report.error:
            self._hold.add(report.digest)
        return Admission(report, **fields)

    def close(self) -> None:
        """Kill the processes; who waits gets an error."""
        self._closed.set()
        for child in list(self._all):
            child.kill()  # one that is asked is ended by who asks it
        with suppress(IndexError):
            while True:
                self._ended(self._idle.pop())

    def _child(self) -> "subprocess.Popen[bytes]":
        """An idle process that lives, or a new one."""
        until_s = monotonic() + BUSY_S * bool(self._all)
        while self._idle or monotonic() < until_s:
            with suppress(IndexError):
                if (child := self._idle.pop()).poll() is None:
                    return child
                self._ended(child)
            sleep(0.005)
        # numpy would start a thread for each processor, with memory for each.
        environ = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
        child = start_module("lora_cli.isolation", stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
        self._all.add(child)
        try:
            if self._closed.is_set():
                raise BrokenPipeError
            assert child.stdin is not None
            pickle.dump(self._setup, child.stdin)
            child.stdin.flush()
        except OSError:
            self._ended(child)
            raise
        return child

    def _ended(self, child: "subprocess.Popen[bytes]") -> int:
        """The exit status of a process, which is killed if it has not ended."""
        self._all.discard(child)
        child.kill()
        with suppress(OSError), child:
            pass
        return child.wait()


def start_module(
    module: str, *arguments: str, env: Mapping[str, str] = os.environ, **how: Any
) -> "subprocess.Popen[bytes]":
    """Start ``python -m MODULE ARGUMENTS`` with this process's imports, but not those of the current directory."""
    paths = [*filter(None, sys.path), str(Path(__file__).parents[1])]
    command = [sys.executable, "-P", "-m", module, *arguments]
    return subprocess.Popen(command, env={**env, "PYTHONPATH": os.pathsep.join(paths)}, **how)  # noqa: S603


def cause_of_end(status: int) -> str:
    """How a process with this exit status ended."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


def main() -> None:
    """The child: it admits one adapter after the other until its parent closes the pipe."""
    answers, requests = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that of a terminal is for the parent, which closes the pipe
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # where memory runs out, the kernel ends this process rather than its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    setup: Setup = pickle.load(requests)  # noqa: S301 - from our parent
    threading.Thread(target=end_with_parent, args=(0,), daemon=True).start()
    log_to_stderr(setup.log_level)
    store = Store(setup.settings.cache_dir)
    engines = (choose_engine(setup.engine),) if setup.engine else ()
    terms = Terms(setup.settings, setup.base, engines=engines, deployment=setup.deployment)
    with InUse(store) as hold:
        contexts = {}
        for by_client in (False, True):
            sources = Sources(setup.settings, roots=setup.roots * by_client)
            contexts[by_client] = FetchContext(store, setup.settings, in_use=hold, sources=sources)
        with suppress(EOFError):
            while True:
                request, by_client, deadline_s = pickle.load(requests)  # noqa: S301
                signal.setitimer(signal.ITIMER_REAL, deadline_s)  # SIGALRM ends this process
                admission = _admitted(request, contexts[by_client], terms)
                signal.setitimer(signal.ITIMER_REAL, 0)
                print(json.dumps(asdict(admission)), file=answers, flush=True)


def end_with_parent(descriptor: int) -> None:
    """Exit this process as soon as the other end of this pipe or socket is closed: nobody waits for answers then."""
    waiting = select.poll()
    waiting.register(descriptor, 0)  # asks for nothing: that the line is dead is always said
    waiting.poll()
    os._exit(0)


def _admitted(request: Request, context: FetchContext, terms: Terms) -> Admission:
    result = fetch_one(request, context)
    try:
        result = judge_fetched(result, terms)
    except MemoryError:
        result.stage, result.error = "validate", Refused("it needs more memory than is allowed for one adapter")
    except Exception as error:  # noqa: BLE001 - the boundary of the process: a bug fails one adapter alone
        result.stage, result.error = "validate", bug_of(log, error)
    report = report_of(request, result)
    if report.error:
        return Admission(replace(report, error=report.error[:LONGEST_TEXT], hint=report.hint[:LONGEST_TEXT]))
    assert result.snapshot is not None
    return Admission(report, str(result.snapshot.directory), result.snapshot.size, result.cached)


def report_of(request: Request, result: Result) -> LoadReport:
    """The report of an adapter that was fetched and judged, as far as it came."""
    digest = result.snapshot.digest if result.snapshot is not None else ""
    applied, signers = str(result.applied or ""), result.signers or ()
    report = LoadReport(request.name, digest, applied=applied, stage_ms=result.stage_ms, signers=signers)
    return report if result.refusal is None else report.failed(result.stage, result.refusal)


if __name__ == "__main__":
    main()
