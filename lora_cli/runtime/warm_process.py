"""The parent's side of the warm process: starts it, asks it, and survives its death. Torch-free."""

import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from lora_cli.core.results import Answers, LoadReport
from lora_cli.errors import LoraCliError, MissingExtra
from lora_cli.runtime.child_process import Asked, ChildProcess, Died, Program
from lora_cli.runtime.messages import Answer, Heard, Job, Load, Ready, Served, ServeOnce
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
    requests may be on their way, from any thread. When the child dies, all of them fail with the reason, and the next
    one starts another child, whose tiers are empty. ``deadline_s`` is how long one request may take (None: as long as
    it wants); a child over it is killed. ``stop_deadline_s`` is how long a child may take to end after its connection
    closed, and again after SIGTERM, before it is killed. ``tell`` is called with ``(adapter, stage)`` when a stage
    begins, ``died`` with why a child that was ready is gone, unless it was closed, ``revived`` when another is ready.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        deadline_s: float | None = None,
        stop_deadline_s: float = STOP_S,
        tell: Callable[[str, str], None] = lambda _name, _stage: None,
        died: Callable[[Died], None] = lambda _why: None,
        revived: Callable[[], None] = lambda: None,
    ) -> None:
        require(plan.forward)
        self.plan, self.deadline_s, self.stop_deadline_s, self.tell = plan, deadline_s, stop_deadline_s, tell
        self._died, self._revived = died, revived
        self.starts = 0
        self.ready: Ready | None = None
        self._child: ChildProcess | None = None
        self._starting = threading.RLock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        child = self._child
        return child.process.pid if child is not None and child.open else None

    @property
    def stands(self) -> bool:
        """Whether there is a child that is done with its start."""
        child = self._child
        return child is not None and child.open and child.stands.future.done()

    def start(self) -> Ready:
        """Start a child, in place of the one that there is, and wait until it is ready.

        Raises:
            LoraCliError: what kept it from standing (no such device, the slots do not fit, the base cannot be loaded).
        """
        with self._starting:
            self.close_child()
            program = replace(PROGRAM, stop_deadline_s=self.stop_deadline_s)
            child = self._child = ChildProcess(program, self.plan, self.deadline_s, self.tell, self._died)
            self.starts += 1
            try:
                if self._closed:  # ``close`` did not see this child
                    child.kill()
                self.ready = child.stands.answer(Ready)
            except BaseException:
                # Also an interrupt: what does not stand yet has nothing under way that is worth waiting for.
                child.kill()
                self.close_child()
                raise
            if self.starts > 1:
                self._revived()
            return self.ready

    def revive(self) -> None:
        """Start another child if there is none. Raises as ``start``."""
        with self._starting:
            if self._child is None or not self._child.open:
                self.start()

    def submit(self, name: str, message: object, heard: Callable[[Heard], None] = lambda _said: None) -> Asked:
        """Ask the child, which is started if there is none. Only that may raise; all else is the request's answer."""
        child = self._child
        while child is None or not child.open:
            self.revive()
            child = self._child
        return child.ask(Asked(name, self.deadline_s, tell=self.tell, heard=heard), message)

    def load(self, job: Job) -> LoadReport:
        """Read, put into a slot and prove one adapter. Never raises for what happens to it: that is in the report.

        What died of another adapter's load is tried once more.
        """
        for last in (False, True):
            asked: Asked | None = None
            try:
                asked = self.submit(job.name, Load(job))
                return asked.answer(LoadReport)
            except LoraCliError as error:
                if last or not isinstance(error, Died) or error.alone:
                    stage = "start" if asked is None else asked.stage or "read"
                    return LoadReport(job.name, job.digest).failed(stage, error)
        raise AssertionError

    def serve(self, job: Job) -> Served:
        """Have an adapter in its slot and send a small batch through it. Raises ``LoraCliError`` when it cannot be."""
        return self.submit(job.name, ServeOnce(job)).answer(Served)

    def answer(self, job: Job, prompt: str, max_tokens: int) -> Answers:
        """The base's and the adapter's greedy answer. Raises ``LoraCliError`` when there is none."""
        return self.submit(job.name, Answer(job, prompt, max_tokens)).answer(Answers)

    def close(self) -> None:
        """End the child, for good; one that is still starting has nothing under way, and is killed."""
        self._closed = True
        child = self._child
        if child is not None and not child.stands.future.done():
            child.kill()
        with self._starting:
            self.close_child()

    def close_child(self) -> None:
        """End the child if there is one: it ends by itself when its connection closes, else it is made to."""
        with self._starting:
            child, self._child = self._child, None
            if child is not None:
                child.close()


def require(forward: Forward) -> None:
    """Raises ``MissingExtra`` when what ``forward`` needs is not installed. Imports nothing."""
    if find_spec("torch") is None:
        raise MissingExtra("warm", "warm", "torch")
    if forward == "model" and find_spec("transformers") is None:
        raise MissingExtra("--forward model", "models", "transformers")
