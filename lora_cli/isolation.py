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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

from lora_cli.base.base_model import BaseModel
from lora_cli.engines import choose_engine
from lora_cli.errors import FormatError, MachineError, Refused, Unreachable
from lora_cli.fetching.batch import FetchContext
from lora_cli.finding import Deployment
from lora_cli.judging.judge import Terms, fetch_one, judge_fetched
from lora_cli.judging.result import Result
from lora_cli.parse import json_object
from lora_cli.redaction import log_bug, log_to_stderr, logger
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.locks import InUse

log = logger(__name__)

MEMORY_BYTES = 2 << 30
"""What such a process may allocate: a fetch takes up to 250 MiB, and values are read piece by piece."""

GRACE_S = 10.0
"""After the adapter's own deadline, until the process is killed."""

LONGEST_TEXT = 2000
"""Characters of an error that are passed on: names in an adapter may have millions."""


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


class Isolation:
    """Up to ``processes`` children, each of which admits one adapter at a time. Threads share it.

    ``hold`` keeps the snapshots of admitted adapters in the cache.
    """

    def __init__(self, setup: Setup, hold: InUse, processes: int = 4) -> None:
        self.threads = ThreadPoolExecutor(processes, "isolation")
        self._setup, self._hold, self._deadline_s = setup, hold, setup.settings.adapter_timeout_s + GRACE_S
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: set[subprocess.Popen[bytes]] = set()
        self._lock, self._closed = threading.Lock(), False

    def start(self) -> None:
        """Start one process ahead of the first request."""
        child = self._spawn()
        with self._lock:
            self._idle.append(child)

    def admit(self, request: Request, *, by_client: bool = False) -> Admission:
        """Fetch and judge one adapter. Never raises: its error is in the report."""
        report, killed = LoadReport(request.name), threading.Event()
        try:
            child = self._take()
            timer = threading.Timer(self._deadline_s, _kill, (child, killed))
            timer.start()
            try:
                admission = self._ask(child, request, by_client=by_client)
            finally:
                timer.cancel()
        except (OSError, EOFError, FormatError) as error:
            reason, hint = f"the process that reads it ended: {error}", "see lora-cli validate for its findings"
            if self._closed:
                return Admission(report.failed("fetch", Unreachable("the server is stopping")))
            if killed.is_set():
                reason = f"reading it takes longer than {self._setup.settings.adapter_timeout_s:g} s"
            return Admission(report.failed("fetch", Refused(reason, hint=hint)))
        with self._lock:
            if not self._closed:
                self._idle.append(child)
        if self._closed:
            self._end(child)
        if not admission.report.error:
            self._hold.add(admission.report.digest)
        return admission

    def close(self) -> None:
        """Kill the processes; who waits gets an error."""
        with self._lock:
            self._closed = True
            for child in self._all:
                child.kill()  # one that is asked is ended by who asks it
            idle, self._idle = self._idle, []
        for child in idle:
            self._end(child)
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _take(self) -> "subprocess.Popen[bytes]":
        """An idle process that lives, or a new one."""
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                return self._spawn()
            if child.poll() is None:
                return child
            self._end(child)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._closed:
                raise EOFError
            # numpy would start a thread for each processor, with memory for each. The imports are this process's.
            environ = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": _import_path()}
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "lora_cli.isolation"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environ,
            )
            self._all.add(child)
        pickle.dump(self._setup, _pipe(child.stdin))
        _pipe(child.stdin).flush()
        return child

    def _ask(self, child: "subprocess.Popen[bytes]", request: Request, *, by_client: bool) -> Admission:
        try:
            pickle.dump((request, by_client), _pipe(child.stdin))
            _pipe(child.stdin).flush()
            line = _pipe(child.stdout).readline()
            if not line:
                raise EOFError(_cause(child.wait()))  # noqa: TRY301 - as a broken pipe is
            fields = json_object(line, "its answer")
            report = fields.pop("report")
            return Admission(LoadReport(**{**report, "signers": tuple(report["signers"])}), **fields)
        except BaseException:
            self._end(child)
            raise

    def _end(self, child: "subprocess.Popen[bytes]") -> None:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                _pipe(pipe).close()
        child.wait()
        with self._lock:
            self._all.discard(child)


def _kill(child: "subprocess.Popen[bytes]", killed: threading.Event) -> None:
    killed.set()
    child.kill()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _cause(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _import_path() -> str:
    """The child's import path: ours, without the current directory."""
    return os.pathsep.join([*(entry for entry in sys.path if entry), str(Path(__file__).parents[1])])


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
    terms = Terms(setup.base, engines=engines, deployment=setup.deployment)
    with InUse(store) as hold:
        contexts = {
            by_client: FetchContext(
                store,
                setup.settings,
                in_use=hold,
                sources=Sources(setup.settings, roots=setup.roots if by_client else ()),
            )
            for by_client in (False, True)
        }
        with suppress(EOFError):
            while True:
                request, by_client = pickle.load(requests)  # noqa: S301
                admission = _admitted(request, contexts[by_client], terms)
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
        result = judge_fetched(result, terms, context.settings)
    except MemoryError:
        result.stage, result.error = "validate", Refused("it needs more memory than is allowed for one adapter")
    except Exception as error:  # noqa: BLE001 - the boundary of the process: a bug fails one adapter alone
        log_bug(log, error)
        result.stage, result.error = "validate", MachineError(f"{type(error).__name__}", hint="please report this")
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
