"""Adapters fetched and validated for a server, in processes of their own, within bounds of time and memory.

One process fetches, for all adapters at once. Up to ``JUDGES`` others validate, one adapter at a time each.
"""

import threading
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from lora_cli.core.adapter import Adapter
from lora_cli.core.item import Item
from lora_cli.core.results import LoadReport
from lora_cli.errors import LoraCliError, Refused, Unreachable
from lora_cli.runtime.admitted import continued
from lora_cli.runtime.channel import Asked
from lora_cli.runtime.child_process import ChildProcess, Died, Program, TookTooLong, TookTooMuch
from lora_cli.runtime.messages import Job, Sealed
from lora_cli.runtime.plan import Needs
from lora_cli.serving.admission_requests import Copied, CopyOut, Fetch, Fetched, Judge, Judged, Setup
from lora_cli.store.holds import Hold

T = TypeVar("T")

JUDGES = 2
"""Adapters that are validated at once."""

JUDGE_S, JUDGE_BYTES_PER_S = 60.0, 16 << 20
"""So long one may take to be validated: some seconds, and as its bytes can be read from a slow disk."""

JUDGE_BYTES, FETCH_BYTES = 1 << 30, 4 << 30
"""Memory of each of the processes that validate, and of the one that fetches."""

KEPT_BYTES = 256 << 20
"""A process that validates and has grown beyond this is replaced after its adapter."""

FETCH_AT_ONCE, FETCH_AGAIN = 64, 4
"""Adapters that one process fetches at once, and those that are fetched again, each by a process of its own."""

START_S, SILENT_S, STOP_S = 60.0, 30.0, 0.5
"""So long one may take to start, may say nothing while it fetches, and may take to end."""

JUDGE = Program(
    module="lora_cli.serving.admission_child",
    title="the process that validates adapters",
    stop_deadline_s=STOP_S,
    # numpy would start a thread for each processor, with memory for each.
    environ={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    max_bytes=JUDGE_BYTES,
    killed_hint="the kernel kills what takes too much memory",
)
FETCHER = replace(JUDGE, title="the process that fetches adapters", max_bytes=FETCH_BYTES, silent_s=SILENT_S)

HINT = "lora-cli validate says what is odd about it"


@dataclass(frozen=True, slots=True)
class Admitted:
    """One adapter's report as far as it came, and its job when nothing kept it out."""

    report: LoadReport
    job: Job | None = None
    needs: Needs | None = None
    cached: bool = False


class Admissions:
    """Admits adapters; any thread may ask, and waits. ``limit_s`` is the longest that validating one may take."""

    def __init__(self, setup: Setup, hold: Hold, limit_s: float) -> None:
        self._hold, self._limit_s, self._copies = hold, limit_s, setup.copy is not None
        fetching = replace(setup, threads=FETCH_AT_ONCE)
        self._fetching, self._again = _Fetching(fetching), _Pool(fetching, FETCHER, FETCH_AGAIN, kept_bytes=0)
        self._judging = _Pool(setup, JUDGE, JUDGES, KEPT_BYTES)
        self._closed = False

    def start(self) -> None:
        """Start the processes, so that the first adapter need not wait for that."""
        self._fetching.child()
        self._judging.start()

    def admit(self, item: Item, *, by_client: bool) -> Admitted:
        """Fetch and validate one adapter. Never raises for what happens to it: that is in its report."""
        fetched = self._fetch(item, by_client=by_client)
        if fetched.report.error:
            return Admitted(fetched.report, cached=fetched.cached)
        self._hold.add(fetched.report.digest)
        judged = self._judge(item, fetched)
        report = judged.report
        if judged.directory is not None and self._copies:
            report = self._copied(report, fetched)
        if judged.directory is None or report.error:
            return Admitted(report, cached=fetched.cached)
        # The adapter stays closed here: it is opened by the process that loads it.
        sealed = cast("Adapter", Sealed(judged.adapter))
        job = Job(item.name, judged.directory, sealed, report.digest, item.pinned)
        return Admitted(report, job, Needs(judged.rank, judged.modules), fetched.cached)

    def close(self) -> None:
        """End the processes now; who waits for them hears that the server is stopping."""
        self._closed = True
        for processes in (self._fetching, self._again, self._judging):
            processes.close()

    def _fetch(self, item: Item, *, by_client: bool) -> Fetched:
        """What died together with others is fetched again in a process of its own: it may be what killed them."""
        message, asked = Fetch(item, by_client), _asked(item.name, "resolve")
        try:
            try:
                return self._fetching.child().channel.ask(asked, message).answer(Fetched)
            except Died as error:
                if error.alone:
                    raise
            asked = _asked(item.name, "resolve")
            return self._again.ask(asked, message, Fetched)
        except LoraCliError as error:
            return Fetched(self._failed(LoadReport(item.name), asked.stage, error))

    def _judge(self, item: Item, fetched: Fetched) -> Judged:
        limit_s = min(self._limit_s, JUDGE_S + fetched.size / JUDGE_BYTES_PER_S)
        try:
            asked = _asked(item.name, "validate", limit_s)
            return self._judging.ask(asked, Judge(item, fetched.admission), Judged)
        except TookTooLong:
            error: LoraCliError = Refused(f"validating it takes longer than {limit_s:g} s", hint=HINT)
        except LoraCliError as other:
            error = other
        return Judged(self._failed(fetched.report, "validate", error))

    def _copied(self, report: LoadReport, fetched: Fetched) -> LoadReport:
        asked = _asked(report.name, "tier")
        try:
            child = self._fetching.child()
            copied = child.channel.ask(asked, CopyOut(fetched.admission)).answer(Copied).report
        except LoraCliError as error:
            return self._failed(report, asked.stage, error)
        return continued(replace(report, copied_to=copied.copied_to), replace(copied, digest=report.digest))

    def _failed(self, report: LoadReport, stage: str, error: LoraCliError) -> LoadReport:
        """The report of an adapter whose process died, or could not be asked."""
        if self._closed:
            error = Unreachable("the server is stopping")
        elif isinstance(error, TookTooMuch) and error.alone:
            error = Refused("it takes more memory than a server spends on one adapter", hint=HINT)
        return report.failed(stage, error)


def _asked(name: str, stage: str, limit_s: float | None = None) -> Asked:
    return Asked(name, limit_s, lambda _name, _stage: None, stage)


class _Process(ChildProcess):
    """One that fetches or validates; it ``stands`` once it has heard what for. What is asked before waits for that."""

    def __init__(self, setup: Setup, program: Program) -> None:
        super().__init__(program)
        self.stands = self.channel.ask(_asked("", "start", START_S), setup)

    def end(self) -> None:
        """End it, now."""
        self.kill()
        self.close()


class _Fetching:
    """The process that fetches: started when it is first needed, and again when it died."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._child: _Process | None = None
        self._lock = threading.Lock()
        self._closed = False

    def child(self) -> _Process:
        """The one that lives now. Raises ``Unreachable`` after ``close``."""
        with self._lock:
            if self._closed:
                raise Unreachable("the server is stopping")
            if self._child is None or not self._child.channel.open:
                if self._child is not None:
                    self._child.close()
                self._child = _Process(self._setup, FETCHER)
            return self._child

    def close(self) -> None:
        """End it, for good."""
        with self._lock:
            self._closed = True
            child, self._child = self._child, None
        if child is not None:
            child.end()


class _Pool:
    """Up to ``most`` processes that work on one adapter each.

    One whose adapter went wrong is ended, and so is one that has grown beyond ``kept_bytes``.
    """

    def __init__(self, setup: Setup, program: Program, most: int, kept_bytes: int) -> None:
        self._setup, self._program, self._kept_bytes = setup, program, kept_bytes
        self._turns = threading.BoundedSemaphore(most)
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Have one at hand."""
        self._give_back(self._taken())

    def ask(self, asked: Asked, message: object, kind: type[T]) -> T:
        """Its answer, as soon as one of them is free. Raises why there is none; ``Unreachable`` after ``close``."""
        with self._turns:
            child = self._taken()
            try:
                child.stands.answer(bool)
                answer = child.channel.ask(asked, message).answer(kind)
            except BaseException:
                self._drop(child)
                raise
            if (child.memory_bytes() or 0) > self._kept_bytes:
                self._drop(child)
            else:
                self._give_back(child)
            return answer

    def close(self) -> None:
        """End them, for good."""
        with self._lock:
            self._closed = True
            for child in self._all:
                child.kill()
            idle, self._idle = self._idle, []
        for child in idle:
            self._drop(child)

    def _taken(self) -> _Process:
        with self._lock:
            if self._closed:
                raise Unreachable("the server is stopping")
            while self._idle:
                child = self._idle.pop()
                if child.channel.open:
                    return child
                self._all.discard(child)
                child.close()
            child = _Process(self._setup, self._program)
            self._all.add(child)
            return child

    def _give_back(self, child: _Process) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)
                return
        self._drop(child)

    def _drop(self, child: _Process) -> None:
        with self._lock:
            self._all.discard(child)
        child.end()
