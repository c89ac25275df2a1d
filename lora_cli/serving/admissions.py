"""Adapters are fetched and validated in child processes, with limits of time and memory.

One process fetches, for all adapters at once. Up to ``VALIDATORS`` others validate, one adapter at a time each.
"""

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lora_cli.base.base_model import BaseModel
from lora_cli.errors import LoraCliError, Refused, Unreachable
from lora_cli.finding import Deployment
from lora_cli.judging.result import Result
from lora_cli.refs.request import Request
from lora_cli.results import LoadReport
from lora_cli.runtime.child_process import (
    ChildProcess,
    PendingRequest,
    ProcessDied,
    ProcessOutOfMemory,
    ProcessTimedOut,
    Program,
)
from lora_cli.runtime.messages import LoraRequest
from lora_cli.runtime.plan import SlotRequirements
from lora_cli.settings import Settings
from lora_cli.store.locks import InUse

VALIDATORS = 2
"""Adapters that are validated at once."""

VALIDATION_S, VALIDATION_BYTES_PER_S = 60.0, 16 << 20
"""Time limit of a validation: these seconds, plus the time to read its bytes from a slow disk."""

VALIDATOR_BYTES, FETCH_BYTES = 1 << 30, 4 << 30
"""Memory of each of the processes that validate, and of the one that fetches."""

KEPT_BYTES = 256 << 20
"""A process that validates is replaced when it has grown beyond this."""

FETCH_AT_ONCE, FETCH_AGAIN = 64, 4
"""Adapters that the shared process fetches at once, and processes for retries, of one adapter each."""

START_S, SILENT_S, STOP_S = 60.0, 30.0, 0.5
"""Time limits of such a process: to start, between signs of life while fetching, and to stop."""

VALIDATOR = Program(
    module="lora_cli.serving.admission_child",
    title="the process that validates adapters",
    stop_deadline_s=STOP_S,
    # numpy would start a thread for each processor, with memory for each.
    environ={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    max_bytes=VALIDATOR_BYTES,
    killed_hint="the kernel kills processes that use too much memory",
)
FETCHER = replace(VALIDATOR, title="the process that fetches adapters", max_bytes=FETCH_BYTES, silent_s=SILENT_S)

HINT = "see lora-cli validate for its findings"


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """The first message to such a process: its settings.

    ``roots`` are the folders that clients may name adapters in. ``log_level`` is
    the lowest level of log messages that it passes on. ``threads`` requests are worked on at once. ``engine`` is
    NAME@VERSION of who will serve the adapters, started as ``deployment`` says; empty for the warm process.
    """

    settings: Settings
    base: BaseModel | None
    roots: tuple[Path, ...] = ()
    log_level: int = 30
    threads: int = 1
    engine: str = ""
    deployment: Deployment = field(default_factory=Deployment)


@dataclass(frozen=True, slots=True)
class AdmissionStep:
    """One step of an admission; the answer is ``Admitted``.

    ``resolve`` fetches the adapter into the cache; with ``by_client`` its source must be allowed. ``validate``
    continues with the ``admission`` that ``resolve`` returned.
    """

    stage: Literal["resolve", "validate"]
    item: Request
    by_client: bool = False
    admission: Result | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """One adapter's report so far, and if it was admitted its ``lora`` request and slot requirements.

    ``size`` is in bytes. ``cached`` says that nothing was downloaded. ``admission`` and ``lora.adapter`` are
    ``OpaquePickle`` in the server's own process, which does not unpickle them.
    """

    report: LoadReport
    lora: LoraRequest | None = None
    needs: SlotRequirements | None = None
    size: int = 0
    cached: bool = False
    admission: Result | None = None


class Admissions:
    """Admits adapters; thread-safe. ``limit_s`` limits the time of one validation."""

    def __init__(self, setup: AdmissionSettings, hold: InUse, limit_s: float) -> None:
        self._hold, self._limit_s = hold, limit_s
        self._fetching = _ProcessPool(replace(setup, threads=FETCH_AT_ONCE), FETCHER, 1, FETCH_BYTES)
        self._fetching_alone = _ProcessPool(setup, FETCHER, FETCH_AGAIN, kept_bytes=0)
        self._validating = _ProcessPool(setup, VALIDATOR, VALIDATORS, KEPT_BYTES)
        self._closed = False

    def start(self, validators: int = 1) -> None:
        """Start the process that fetches, and ``validators`` that validate, ahead of the first admission."""
        self._fetching.start(1)
        self._validating.start(validators)

    def admit(self, item: Request, *, by_client: bool) -> Admitted:
        """Fetch and validate one adapter. Never raises: its error is in the report."""
        step, report = AdmissionStep("resolve", item, by_client), LoadReport(item.name)
        # If the shared process died, each of its adapters is fetched again alone: one of them killed it.
        fetched = self._run_step(step, report, self._fetching, self._fetching_alone)
        if fetched.report.error:
            return fetched
        self._hold.add(fetched.report.digest)
        limit_s = min(self._limit_s, VALIDATION_S + fetched.size / VALIDATION_BYTES_PER_S)
        step = replace(step, stage="validate", admission=fetched.admission)
        validated = self._run_step(step, fetched.report, self._validating, limit_s=limit_s)
        return replace(validated, cached=fetched.cached, size=fetched.size)

    def close(self) -> None:
        """Kill the processes; waiting callers get the error that the server is stopping."""
        self._closed = True
        for processes in (self._fetching, self._fetching_alone, self._validating):
            processes.close()

    def _run_step(
        self, step: AdmissionStep, report: LoadReport, *pools: "_ProcessPool", limit_s: float | None = None
    ) -> Admitted:
        """Run ``step`` in a process. If the process died of another step, try the next pool; else report the error."""
        for pool in pools:
            asked = PendingRequest(step.item.name, limit_s, step.stage)
            try:
                return pool.ask(asked, step)
            except LoraCliError as caught:
                error = caught
            if not isinstance(error, ProcessDied) or error.only_request:
                break
        if self._closed:
            error = Unreachable("the server is stopping")
        elif isinstance(error, ProcessTimedOut) and limit_s is not None:
            error = Refused(f"validating it takes longer than {limit_s:g} s", hint=HINT)
        elif isinstance(error, ProcessOutOfMemory) and error.only_request:
            error = Refused("it needs more memory than the server allows for one adapter", hint=HINT)
        return Admitted(report.failed(asked.stage, error))


class _ProcessPool:
    """Up to ``most`` processes that work on ``setup.threads`` adapters each.

    A process that died or grew beyond ``kept_bytes`` is replaced.
    """

    def __init__(self, setup: AdmissionSettings, program: Program, most: int, kept_bytes: int) -> None:
        self._setup, self._program, self._kept_bytes = setup, program, kept_bytes
        self._free = threading.BoundedSemaphore(most * setup.threads)
        self._busy: dict[ChildProcess, int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(self, number: int) -> None:
        """Start ``number`` processes."""
        for child in [self._acquire(alone=True) for _ in range(number)]:
            self._release(child)

    def ask(self, asked: PendingRequest, step: AdmissionStep) -> Admitted:
        """Run a step as soon as a process is free. Raises its error; ``Unreachable`` after ``close``."""
        with self._free:
            child = self._acquire()
            try:
                child.started.answer(bool)
                return child.ask(asked, step).answer(Admitted)
            finally:
                self._release(child)

    def close(self) -> None:
        """Kill all processes; no new one starts."""
        with self._lock:
            self._closed = True
            for child in self._busy:
                child.kill()
            idle = [child for child, busy in self._busy.items() if not busy]
            for child in idle:
                del self._busy[child]
        for child in idle:
            child.close()

    def _acquire(self, *, alone: bool = False) -> ChildProcess:
        """A process with a free thread, or a new one; with ``alone`` one without other work."""
        with self._lock:
            if self._closed:
                raise Unreachable("the server is stopping")
            most = 0 if alone else self._setup.threads - 1
            free = (one for one, busy in self._busy.items() if one.is_open and busy <= most)
            child = next(free, None) or ChildProcess(self._program, self._setup, START_S)
            self._busy[child] = self._busy.get(child, 0) + 1
            return child

    def _release(self, child: ChildProcess) -> None:
        with self._lock:
            self._busy[child] -= 1
            kept = not self._closed and child.is_open and (child.memory_bytes() or 0) <= self._kept_bytes
            if kept or self._busy[child]:
                return
            del self._busy[child]
        child.kill()
        child.close()
