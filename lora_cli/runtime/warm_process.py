"""The parent's side of the warm process: it starts the child, sends requests and restarts it. Torch-free."""

import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Self

from lora_cli.errors import LoraCliError, MissingExtra
from lora_cli.results import Answers, LoadReport
from lora_cli.runtime.child_process import ChildProcess, PendingRequest, ProcessDied, Program
from lora_cli.runtime.messages import CompareGreedy, Load, LoraRequest, Probe, ProbeResult, Ready, RowEvent
from lora_cli.runtime.plan import Forward, Plan

STOP_S = 5.0

PROGRAM = Program(
    module="lora_cli.runtime.worker_process",
    title="the warm process",
    stop_deadline_s=STOP_S,
    environ={"GOMP_SPINCOUNT": "1000"},
    killed_hint="the kernel kills processes that use too much memory: lower --max-loras or --max-cpu-loras",
)
"""The child that owns the device.

So often (GOMP_SPINCOUNT) OpenMP's threads look for more work before they sleep: some microseconds, which is what is
between the products of a forward. That makes a decoding step twice as fast as where they sleep at once, while the usual
300,000 make a proof twenty times slower on cores that others use."""


class WarmProcess:
    """Holds one child process that owns the device. A context manager: the child ends with the block.

    The child is started cleanly (a new interpreter, no fork) with the first request, or with ``start``. Any number of
    requests may be pending, from any thread. When the child dies, all of them fail with the reason, and the next one
    starts another child, whose tiers are empty. ``deadline_s`` is how long one request may take (None: no
    limit); a child over it is killed. ``stop_deadline_s`` is how long a child may take to end after its connection
    closed, and again after SIGTERM, before it is killed. ``on_stage`` is called with ``(adapter, stage)`` when a stage
    begins, ``on_death`` with the reason when a child that was ready died and was not closed, and ``on_restart`` when
    another child is ready.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        deadline_s: float | None = None,
        stop_deadline_s: float = STOP_S,
        on_stage: Callable[[str, str], None] = lambda _name, _stage: None,
        on_death: Callable[[ProcessDied], None] = lambda _why: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        require_packages_for(plan.forward)
        self.plan, self.deadline_s, self.stop_deadline_s, self.on_stage = plan, deadline_s, stop_deadline_s, on_stage
        self._on_death, self._on_restart = on_death, on_restart
        self.starts = 0
        self.ready: Ready | None = None
        self._child: ChildProcess | None = None
        self._starting = threading.RLock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        child = self._child
        return child.process.pid if child is not None and child.is_open else None

    @property
    def is_started(self) -> bool:
        """Whether there is a child that has started."""
        child = self._child
        return child is not None and child.is_open and child.started.future.done()

    def start(self) -> Ready:
        """Start a child, replacing any other, and wait until it is ready.

        Raises:
            LoraCliError: it cannot start (no such device, the slots do not fit, the base cannot be loaded).
        """
        with self._starting:
            self.close_child()
            program = replace(PROGRAM, stop_deadline_s=self.stop_deadline_s)
            child = self._child = ChildProcess(program, self.plan, self.deadline_s, self.on_stage, self._on_death)
            self.starts += 1
            try:
                if self._closed:  # ``close`` did not see this child
                    child.kill()
                self.ready = child.started.answer(Ready)
            except BaseException:
                # Also an interrupt: a child that has not started has no work worth waiting for.
                child.kill()
                self.close_child()
                raise
            if self.starts > 1:
                self._on_restart()
            return self.ready

    def ensure_running(self) -> None:
        """Start another child if there is none. Raises as ``start``."""
        with self._starting:
            if self._child is None or not self._child.is_open:
                self.start()

    def submit(
        self, name: str, message: object, on_event: Callable[[RowEvent], None] = lambda _said: None
    ) -> PendingRequest:
        """Send a request to the child, which is started if there is none. Only the start may raise."""
        child = self._child
        while child is None or not child.is_open:
            self.ensure_running()
            child = self._child
        return child.ask(PendingRequest(name, self.deadline_s, on_stage=self.on_stage, on_event=on_event), message)

    def load(self, lora: LoraRequest) -> LoadReport:
        """Read, put into a slot and prove one adapter. Never raises: its error is in the report.

        If the child died of another request, the load is tried once more.
        """
        for last in (False, True):
            pending: PendingRequest | None = None
            try:
                pending = self.submit(lora.name, Load(lora))
                return pending.answer(LoadReport)
            except LoraCliError as error:
                if last or not isinstance(error, ProcessDied) or error.only_request:
                    stage = "start" if pending is None else pending.stage or "read"
                    return LoadReport(lora.name, lora.digest).failed(stage, error)
        raise AssertionError

    def serve(self, lora: LoraRequest) -> ProbeResult:
        """Put an adapter into a slot and send a small batch through it. Raises ``LoraCliError``."""
        return self.submit(lora.name, Probe(lora)).answer(ProbeResult)

    def answer(self, lora: LoraRequest, prompt: str, max_tokens: int) -> Answers:
        """The base's and the adapter's greedy answer. Raises ``LoraCliError`` when there is none."""
        return self.submit(lora.name, CompareGreedy(lora, prompt, max_tokens)).answer(Answers)

    def close(self) -> None:
        """Close the child permanently; one that is still starting is killed."""
        self._closed = True
        child = self._child
        if child is not None and not child.started.future.done():
            child.kill()
        with self._starting:
            self.close_child()

    def close_child(self) -> None:
        """Close the child, if there is one."""
        with self._starting:
            child, self._child = self._child, None
            if child is not None:
                child.close()


def require_packages_for(forward: Forward) -> None:
    """Raises ``MissingExtra`` when what ``forward`` needs is not installed. Imports nothing."""
    if find_spec("torch") is None:
        raise MissingExtra("warm", "warm", "torch")
    if forward == "model" and find_spec("transformers") is None:
        raise MissingExtra("--forward model", "models", "transformers")
