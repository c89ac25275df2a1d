"""The parent's side of the warm process: starts it, asks it, and survives its death. Torch-free."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar

from lora_cli.core.frozen import replace
from lora_cli.core.results import Answers, LoadReport
from lora_cli.errors import Corrupt, LoraCliError, MachineError, MissingExtra, NotFound, Refused, UsageError
from lora_cli.runtime.plan import Answer, Failure, Forward, Job, Load, Plan, Ready, Served, ServeOnce, Stage

T = TypeVar("T")

SAID_BYTES = 16384
"""How much of the end of the child's stderr is read to say why it died."""

POLITE = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads spin while they wait: on cores shared with others that makes a proof twenty times slower."""

ERRORS: dict[int, type[LoraCliError]] = {1: Refused, 2: UsageError, 3: NotFound, 5: Corrupt, 6: MachineError}
"""What a failure from the child is raised as, by its exit code."""


class Died(MachineError):
    """The warm process was killed while it was asked."""


class WarmProcess:
    """Holds one child process that owns the device. A context manager: the child ends with the block.

    The child is started cleanly (a new interpreter, no fork) with the first request, or with ``start``. When it dies,
    the request at hand fails with the reason, and the next one starts another child, whose tiers are empty.
    ``deadline_s`` is how long one request may take (None: as long as it wants); a child over it is killed.
    ``stop_deadline_s`` is how long a child may take to end after its connection closed, and again after SIGTERM,
    before it is killed.
    ``tell`` hears ``(adapter, stage)`` when a stage begins.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        deadline_s: float | None = None,
        stop_deadline_s: float = 5.0,
        tell: Callable[[str, str], None] = lambda _name, _stage: None,
    ) -> None:
        require(plan.forward)
        self.plan, self.deadline_s, self.stop_deadline_s, self.tell = plan, deadline_s, stop_deadline_s, tell
        self.starts = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._child.pid if self._child else None

    def start(self) -> Ready:
        """Start the child and wait until it stands.

        Raises:
            LoraCliError: what kept it from standing (no such device, the slots do not fit, the base cannot be loaded).
        """
        self.close_child()
        ours, theirs = socket.socketpair()
        command = "import sys; from lora_cli.runtime.worker import main; main(int(sys.argv[1]))"
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
                [sys.executable, "-P", "-c", command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env={**POLITE, **os.environ, "PYTHONPATH": _import_path()},
            )
        self._connection = Connection(ours.detach())
        self.starts += 1
        return self._ask("", self.plan, Ready)

    def load(self, job: Job) -> LoadReport:
        """Read, put into a slot and prove one adapter. Never raises for what happens to it: that is in the report."""
        try:
            return self._request(job.name, Load(job), LoadReport)
        except LoraCliError as error:
            report = LoadReport(job.name, job.digest, stage=self._stage or "read", error=error.message)
            return replace(report, hint=error.hint, exit_code=error.exit_code)

    def serve(self, job: Job) -> Served:
        """Have an adapter in its slot and send a small batch through it. Raises ``LoraCliError`` when it cannot be."""
        return self._request(job.name, ServeOnce(job), Served)

    def answer(self, job: Job, prompt: str, max_tokens: int) -> Answers:
        """The base's and the adapter's greedy answer. Raises ``LoraCliError`` when there is none."""
        return self._request(job.name, Answer(job, prompt, max_tokens), Answers)

    def close(self) -> None:
        """End the child and forget what it said."""
        self.close_child()
        self._said.close()

    def close_child(self) -> None:
        """End the child if there is one: it ends by itself when its connection closes, else it is made to."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        child, self._child = self._child, None
        if child is None:
            return
        for end in (child.terminate, child.kill):
            try:
                child.wait(self.stop_deadline_s)
            except subprocess.TimeoutExpired:
                end()
        child.wait()

    def _request(self, name: str, message: object, answer: type[T]) -> T:
        if self._child is None:
            self.start()
        return self._ask(name, message, answer)

    def _ask(self, name: str, message: object, answer: type[T]) -> T:
        """Send ``message`` and wait for an ``answer``; stages that the child tells on the way are passed on."""
        assert self._connection is not None
        self._stage = "start" if isinstance(message, Plan) else ""
        until = None if self.deadline_s is None else monotonic() + self.deadline_s
        try:
            self._connection.send(message)
            while True:
                if until is not None and not self._connection.poll(max(0.0, until - monotonic())):
                    raise self._overdue()
                said = self._connection.recv()
                if not isinstance(said, Stage):
                    break
                self._stage = said.name
                self.tell(name, said.name)
        except (EOFError, OSError):
            # OSError: it died while we wrote, or in the middle of what it said.
            raise self._death() from None
        if isinstance(said, Failure):
            if isinstance(message, Plan):
                self.close_child()
            raise ERRORS.get(said.exit_code, MachineError)(said.message, hint=said.hint)
        assert isinstance(said, answer)
        return said

    def _overdue(self) -> Died:
        if self._child is not None:
            self._child.kill()
        self.close_child()
        return Died(f"the warm process took longer than {self.deadline_s:g} s and was killed")

    def _death(self) -> LoraCliError:
        """Why the child died, from its exit status and the end of its stderr. An error of its own is a bug of ours."""
        child = self._child
        assert child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(self.stop_deadline_s)
        status, said = child.returncode, self._last_words()
        self.close_child()
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            hint = "the kernel kills what takes too much memory: lower --max-loras or --max-cpu-loras"
            return Died(f"the warm process was killed by {name}", hint=hint if -status == signal.SIGKILL else said)
        return LoraCliError(f"the warm process died: {said or f'exit status {status}'}", hint="please report this")

    def _last_words(self) -> str:
        """The last line that the child wrote."""
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - SAID_BYTES))
        lines = self._said.read().decode(errors="replace").split("\n")
        self._said.seek(0, os.SEEK_END)
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _import_path() -> str:
    """Where the child imports from: as we do, but never from the directory that we happen to stand in."""
    return os.pathsep.join([*(entry for entry in sys.path if entry), str(Path(__file__).parents[2])])


def require(forward: Forward) -> None:
    """Raises ``MissingExtra`` when what ``forward`` needs is not installed. Imports nothing."""
    if find_spec("torch") is None:
        raise MissingExtra("warm", "warm", "torch")
    if forward == "model" and find_spec("transformers") is None:
        raise MissingExtra("warm --forward model", "models", "transformers")
