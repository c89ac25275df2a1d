"""Adapters fetched and validated for a server, in processes of their own, within bounds of time and memory.

One process fetches, for all adapters at once. Up to ``JUDGES`` others validate, one adapter at a time each.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lora_cli.core.adapter_request import Item
from lora_cli.core.base_model import BaseModel
from lora_cli.core.engine_outcome import Deployment
from lora_cli.core.results import LoadReport
from lora_cli.errors import LoraCliError, Refused, Unreachable
from lora_cli.runtime.child_process import Asked, ChildProcess, Died, Program, TookTooLong, TookTooMuch
from lora_cli.runtime.messages import Job
from lora_cli.runtime.plan import Needs
from lora_cli.settings import Settings
from lora_cli.store import Store
from lora_cli.store.in_use import InUseMarker
from lora_cli.validation.fetch_and_validate import Admission

JUDGES = 2
"""Adapters that are validated at once."""

JUDGE_S, JUDGE_BYTES_PER_S = 60.0, 16 << 20
"""How long one may take to be validated: some seconds, and as its bytes can be read from a slow disk."""

JUDGE_BYTES, FETCH_BYTES = 1 << 30, 4 << 30
"""Memory of each of the processes that validate, and of the one that fetches."""

KEPT_BYTES = 256 << 20
"""A process that validates and has grown beyond this is replaced after its adapter."""

FETCH_AT_ONCE, FETCH_AGAIN = 64, 4
"""Adapters that one process fetches at once, and those that are fetched again, each by a process of its own."""

START_S, SILENT_S, STOP_S = 60.0, 30.0, 0.5
"""How long one may take to start, may say nothing while it fetches, and may take to end."""

JUDGE = Program(
    module="lora_cli.serving.admission_child",
    title="the process that validates adapters",
    stop_deadline_s=STOP_S,
    # numpy would start a thread for each processor, with memory for each.
    environ={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    max_bytes=JUDGE_BYTES,
    killed_hint="the kernel kills processes that use too much memory",
)
FETCHER = replace(JUDGE, title="the process that fetches adapters", max_bytes=FETCH_BYTES, silent_s=SILENT_S)

HINT = "see lora-cli validate for its findings"

Copy = Callable[[Store, Admission], Admission]
"""Copies an accepted adapter elsewhere; an error of it is the admission's."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to such a process: its settings.

    ``roots`` are the folders that clients may name adapters in. ``copy`` is None if nothing is copied. ``log_level`` is
    the lowest level of log messages that it passes on. ``threads`` requests are worked on at once. ``engine``, started
    as ``deployment`` says, is NAME@VERSION of who will serve the adapters, if that is not the warm process.
    """

    settings: Settings
    base: BaseModel | None
    max_lora_rank: int | None = None
    roots: tuple[Path, ...] = ()
    copy: Copy | None = None
    log_level: int = 30
    threads: int = 1
    engine: str = ""
    deployment: Deployment | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What such a process is asked, by its first ``stage``; its answer is ``Admitted``, as far as that has come.

    An adapter is fetched into the cache; with ``by_client`` it must be in the roots. What is known of it then is its
    ``admission``: with that it is validated where it is, and copied.
    """

    stage: Literal["resolve", "validate", "tier"]
    item: Item
    by_client: bool = False
    admission: Admission | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """One adapter's report as far as it came, and its job when nothing kept it out, with what that needs.

    ``size`` is in bytes. ``cached`` says that all of it was in the cache before. ``admission`` and the job's adapter
    are ``Sealed`` in the server's own process, which does not open them.
    """

    report: LoadReport
    job: Job | None = None
    needs: Needs | None = None
    size: int = 0
    cached: bool = False
    admission: Admission | None = None


class Admissions:
    """Admits adapters; any thread may ask, and waits. ``limit_s`` is the longest that validating one may take.

    ``copies`` says that what is admitted is copied to memory (``--tier``).
    """

    def __init__(self, setup: Setup, hold: InUseMarker, limit_s: float) -> None:
        self._hold, self._limit_s, self.copies = hold, limit_s, setup.copy is not None
        self._fetching = _Pool(replace(setup, threads=FETCH_AT_ONCE), FETCHER, 1, FETCH_BYTES)
        self._again = _Pool(setup, FETCHER, FETCH_AGAIN, kept_bytes=0)
        self._judging = _Pool(setup, JUDGE, JUDGES, KEPT_BYTES)
        self._closed = False

    def start(self, judges: int = 1) -> None:
        """Start the process that fetches and so many that validate: an adapter waits for one that has to start."""
        self._fetching.start(1)
        self._judging.start(judges)

    def admit(self, item: Item, *, by_client: bool) -> Admitted:
        """Fetch and validate one adapter. Never raises for what happens to it: that is in its report."""
        step, report = Step("resolve", item, by_client), LoadReport(item.name)
        # What died together with others is fetched again in a process of its own: it may be what killed them.
        fetched = self._done(step, report, self._fetching, self._again)
        if fetched.report.error:
            return fetched
        self._hold.add(fetched.report.digest)
        limit_s = min(self._limit_s, JUDGE_S + fetched.size / JUDGE_BYTES_PER_S)
        step = replace(step, stage="validate", admission=fetched.admission)
        judged = self._done(step, fetched.report, self._judging, limit_s=limit_s)
        if judged.job is not None and self.copies:
            copied = self._done(replace(step, stage="tier"), judged.report, self._fetching).report
            stage_ms = {**judged.report.stage_ms, **copied.stage_ms}
            report = replace(copied, digest=judged.report.digest, applied=judged.report.applied, stage_ms=stage_ms)
            judged = Admitted(report) if report.error else replace(judged, report=report)
        return replace(judged, cached=fetched.cached, size=fetched.size)

    def close(self) -> None:
        """End the processes now; waiting callers get the error that the server is stopping."""
        self._closed = True
        for processes in (self._fetching, self._again, self._judging):
            processes.close()

    def _done(self, step: Step, report: LoadReport, *pools: "_Pool", limit_s: float | None = None) -> Admitted:
        """What a process says of ``step``, or ``report``, failed. In the next pool is done what died of others."""
        for pool in pools:
            asked = Asked(step.item.name, limit_s, step.stage)
            try:
                return pool.ask(asked, step)
            except LoraCliError as caught:
                error = caught
            if not isinstance(error, Died) or error.alone:
                break
        if self._closed:
            error = Unreachable("the server is stopping")
        elif isinstance(error, TookTooLong) and limit_s is not None:
            error = Refused(f"validating it takes longer than {limit_s:g} s", hint=HINT)
        elif isinstance(error, TookTooMuch) and error.alone:
            error = Refused("it needs more memory than the server allows for one adapter", hint=HINT)
        return Admitted(report.failed(asked.stage, error))


class _Pool:
    """Up to ``most`` processes that work on ``setup.threads`` adapters each.

    One that died, or has grown beyond ``kept_bytes``, is replaced.
    """

    def __init__(self, setup: Setup, program: Program, most: int, kept_bytes: int) -> None:
        self._setup, self._program, self._kept_bytes = setup, program, kept_bytes
        self._turns = threading.BoundedSemaphore(most * setup.threads)
        self._busy: dict[ChildProcess, int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(self, number: int) -> None:
        """Have so many ready."""
        for child in [self._taken(alone=True) for _ in range(number)]:
            self._give_back(child)

    def ask(self, asked: Asked, step: Step) -> Admitted:
        """Its answer, as soon as one of them is free. Raises why there is none; ``Unreachable`` after ``close``."""
        with self._turns:
            child = self._taken()
            try:
                child.stands.answer(bool)
                return child.ask(asked, step).answer(Admitted)
            finally:
                self._give_back(child)

    def close(self) -> None:
        """End them, for good."""
        with self._lock:
            self._closed = True
            for child in self._busy:
                child.kill()
            idle = [child for child, busy in self._busy.items() if not busy]
            for child in idle:
                del self._busy[child]
        for child in idle:
            child.close()

    def _taken(self, *, alone: bool = False) -> ChildProcess:
        """One with a free thread, or a new one; ``alone`` takes none that has other work."""
        with self._lock:
            if self._closed:
                raise Unreachable("the server is stopping")
            most = 0 if alone else self._setup.threads - 1
            free = (one for one, busy in self._busy.items() if one.open and busy <= most)
            child = next(free, None) or ChildProcess(self._program, self._setup, START_S)
            self._busy[child] = self._busy.get(child, 0) + 1
            return child

    def _give_back(self, child: ChildProcess) -> None:
        with self._lock:
            self._busy[child] -= 1
            kept = not self._closed and child.open and (child.memory_bytes() or 0) <= self._kept_bytes
            if kept or self._busy[child]:
                return
            del self._busy[child]
        child.kill()
        child.close()
