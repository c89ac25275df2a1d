"""A child process: its start, concurrent requests, limits, end, and cause of death. Torch-free."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from lora_cli.errors import LoraCliError, MachineError
from lora_cli.redaction import logger
from lora_cli.runtime.messages import Logged, OutputDelta, RowEvent, RowFailed, RowScheduled, Stage

T = TypeVar("T")

POLL_S = 0.1
"""The interval of checking deadlines, memory and silence while a request is pending."""

STDERR_TAIL_BYTES = 16384
"""Bytes of the end of the child's stderr that are searched for its last line."""

BOOTSTRAP = """import sys
from lora_cli.runtime.parent_connection import end_when_orphaned, end_with_pipe
end_with_pipe(int(sys.argv[3]))
end_when_orphaned(int(sys.argv[2]))
from importlib import import_module
import_module(sys.argv[1]).main(int(sys.argv[2]))
"""
"""The watchdogs start before the module: importing torch takes seconds."""


class ProcessDied(MachineError):
    """A child process ended during a request. ``only_request`` says that there was no other one: this one caused it."""

    def __init__(self, message: str, *, hint: str = "", only_request: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.only_request = only_request


class ProcessCrashed(ProcessDied):
    """It ended by an unexpected error: a bug in lora-cli."""

    exit_code = 70


class ProcessTimedOut(ProcessDied):
    """It was killed because this request exceeded its time limit."""


class ProcessOutOfMemory(ProcessDied):
    """It was killed because it exceeded its memory limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program for a child process, ``main`` of ``module``, and its limits.

    ``title`` is what messages call it, ``killed_hint`` what to try when the kernel killed it. Where it takes more than
    ``max_bytes`` of memory while it is asked something, it is killed; None is no limit. Memory is measured ten times a
    second, on Linux alone. With ``silent_s`` it is killed when it says nothing for so long while it is asked.
    ``environ`` is for variables that the user has not set. Where it is ``inherit_stderr``, it shares our stderr.
    ``stop_deadline_s`` is how long it may take to end after its connection closed, and again after SIGTERM.
    """

    module: str
    title: str
    stop_deadline_s: float
    environ: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int | None = None
    silent_s: float | None = None
    killed_hint: str = ""
    inherit_stderr: bool = False


def _ignore(*_args: object) -> None:
    """The default of ``on_stage`` and ``on_event``."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """One request to the child, and the future of its answer. It may take ``limit_s`` seconds (None: no limit).

    ``name`` is the adapter's; ``stage`` is the last one that the child reported. ``on_stage`` is called with the name
    and each stage, and ``on_event`` with each ``RowEvent`` of a batch, both in the reader thread.
    """

    name: str = ""
    limit_s: float | None = None
    stage: str = ""
    on_stage: Callable[[str, str], None] = _ignore
    on_event: Callable[[RowEvent], None] = _ignore
    deadline: float | None = None
    future: "Future[object]" = field(default_factory=Future)

    def answer(self, kind: type[T]) -> T:
        """Wait for the answer. Raises the child's error, or why there is no answer."""
        answer = self.future.result()
        assert isinstance(answer, kind)
        return answer


class ChildProcess:
    """A new interpreter (no fork) that runs ``program``, from its start to its end.

    One socket carries everything: requests as ``(number, message)``, answers as ``(number, answer)`` in any order. One
    thread here reads the answers. ``setup`` is the first message; its answer, due within ``limit_s`` seconds, is that
    of ``started``. ``is_open`` says whether the connection still stands, as far as is known. ``on_death`` is called
    once, in the reader thread, with the reason when the child died after its start and nobody ended it.
    """

    def __init__(
        self,
        program: Program,
        setup: object,
        limit_s: float | None = None,
        on_stage: Callable[[str, str], None] = _ignore,
        on_death: Callable[[ProcessDied], None] = _ignore,
    ) -> None:
        self.program, self.is_open = program, True
        self._on_death, self._ended = on_death, False
        self._pending: dict[int, PendingRequest] = {}
        self._last = 0
        self._timed_out: list[PendingRequest] = []
        self._over_memory = self._unresponsive = False
        self._lock, self._sending = threading.Lock(), threading.Lock()
        try:
            self._socket = self._start()
        except OSError as error:
            raise MachineError(
                f"{program.title} cannot be started: {error.strerror}{f': {error.filename}' if error.filename else ''}",
                hint="check that this user may run that file, and the memory and limits of this machine",
            ) from error
        self._connection: Connection[Any, Any] = Connection(os.dup(self._socket.fileno()))
        self._last_message_at = monotonic()
        self._thread = threading.Thread(target=self._listen, name=program.title, daemon=True)
        self._thread.start()
        self.started = self.ask(PendingRequest("", limit_s, "start", on_stage), setup)

    def _start(self) -> socket.socket:
        """Start the process; returns our end of the socket."""
        with ExitStack() as opened:
            self._stderr = opened.enter_context(tempfile.TemporaryFile())
            ours, theirs = map(opened.enter_context, socket.socketpair())
            lifeline, self._lifeline = os.pipe()
            opened.callback(os.close, self._lifeline)
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
                    [sys.executable, "-P", "-c", BOOTSTRAP, self.program.module, str(theirs.fileno()), str(lifeline)],
                    pass_fds=[theirs.fileno(), lifeline],
                    stdin=subprocess.DEVNULL,
                    stdout=self._stderr,
                    stderr=None if self.program.inherit_stderr else subprocess.STDOUT,
                    env={**self.program.environ, **os.environ, "PYTHONPATH": _import_path()},
                )
            finally:
                os.close(lifeline)
            theirs.close()
            opened.pop_all()  # what is ours lives as long as the process
        return ours

    def ask(self, pending: PendingRequest, message: object) -> PendingRequest:
        """Send ``message``; its answer is the result of ``pending``. Never raises: an error is the result."""
        pending.deadline = None if pending.limit_s is None else monotonic() + pending.limit_s
        with self._lock:
            self._last += 1
            number, is_open = self._last, self.is_open
            if is_open:
                self._pending[number] = pending
        if not is_open:
            pending.future.set_exception(self._error_for(pending))
            return pending
        # A failure to send is noticed by the reader thread, which knows the cause.
        with suppress(OSError), self._sending:
            self._connection.send((number, message))
        return pending

    def kill(self) -> None:
        """Kill the process; pending requests fail."""
        self._ended = True
        self.process.kill()

    def close(self) -> None:
        """Close the connection, at which the process ends; else terminate and kill it. No request stays pending."""
        self._ended = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(self.program.stop_deadline_s)
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._socket.close()
        os.close(self._lifeline)
        self._stderr.close()

    def memory_bytes(self) -> int | None:
        """Its resident memory without file pages; None if unknown."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except (OSError, UnicodeDecodeError):
            return None
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")

    def _listen(self) -> None:
        try:
            while True:
                if self._connection.poll(POLL_S):
                    self._dispatch(*self._connection.recv())
                elif self._pending:
                    self._check_limits()
        except (EOFError, OSError):
            # OSError: it died in the middle of a message.
            self._exited()

    def _dispatch(self, number: int, message: object) -> None:
        self._last_message_at = monotonic()
        with self._lock:
            pending = self._pending.get(number)
        if isinstance(message, Logged):
            logger(message.logger).log(message.level, "%s", message.text)
        elif pending is None:
            return
        elif isinstance(message, Stage):
            pending.stage = message.name
            pending.on_stage(pending.name, message.name)
        elif isinstance(message, RowScheduled | OutputDelta | RowFailed):
            pending.on_event(message)
        else:
            with self._lock:
                del self._pending[number]
            if isinstance(message, LoraCliError):
                pending.future.set_exception(message)
            else:
                pending.future.set_result(message)

    def _check_limits(self) -> None:
        """Kill the process if a request is over its deadline, or the process over its memory limit or silent."""
        now, most, silent_s = monotonic(), self.program.max_bytes, self.program.silent_s
        with self._lock:
            late = [one for one in self._pending.values() if one.deadline is not None and one.deadline <= now]
        for pending in late:
            pending.deadline = None
        self._timed_out += late
        self._over_memory |= most is not None and (self.memory_bytes() or 0) > most
        self._unresponsive |= silent_s is not None and now - self._last_message_at > silent_s
        if late or self._over_memory or self._unresponsive:
            self.process.kill()

    def _exited(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.program.stop_deadline_s)
        with self._lock:
            self._death = self._cause_of_death(only_request=len(self._pending) == 1)
            self.is_open = False
            left = list(self._pending.values())
            self._pending.clear()
        with self._sending:
            self._connection.close()
        had_started = self.started.future.done() and self.started.future.exception() is None
        for pending in left:
            pending.future.set_exception(self._error_for(pending))
        if had_started and not self._ended:
            self._on_death(self._death())

    def _error_for(self, pending: PendingRequest) -> LoraCliError:
        """The error of one pending request; each gets its own instance."""
        if pending in self._timed_out:
            return ProcessTimedOut(f"{self.program.title} took longer than {pending.limit_s:g} s and was killed")
        return self._death()

    def _cause_of_death(self, *, only_request: bool) -> Callable[[], ProcessDied]:
        """Creates the error that says why it died, from its exit status and the end of its stderr."""
        program, status, line = self.program, self.process.poll(), self._last_stderr_line()
        title = program.title
        if self._timed_out:
            late = self._timed_out[0].name or "its start"
            return partial(ProcessDied, f"{title} was killed: {late} took too long", only_request=False)
        kind: type[ProcessDied] = ProcessDied
        hint = ""
        if self._over_memory:
            kind = ProcessOutOfMemory
            message = f"{title} took more than {program.max_bytes} bytes of memory and was killed"
        elif self._unresponsive:
            message = f"{title} did not respond for {program.silent_s:g} s and was killed"
        elif status is not None and status < 0:
            message = f"{title} was killed by {signal.Signals(-status).name}"
            hint = program.killed_hint if -status == signal.SIGKILL else line
        else:
            kind, hint = ProcessCrashed, "please report this"
            message = f"{title} died: {line or f'exit status {status}'}"
        return partial(kind, message, hint=hint, only_request=only_request)

    def _last_stderr_line(self) -> str:
        """The last line of the child's stderr."""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - STDERR_TAIL_BYTES))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _import_path() -> str:
    """The child's import path: ours, without the current directory."""
    return os.pathsep.join([*(entry for entry in sys.path if entry), str(Path(__file__).parents[2])])
