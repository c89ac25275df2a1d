"""One child process: started, asked many things at a time, watched, ended; and why it died. Torch-free."""

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
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from lora_cli.core.log import logger
from lora_cli.errors import LoraCliError, MachineError
from lora_cli.runtime.messages import Heard, Logged, Piece, Placed, Stage, Unanswered

T = TypeVar("T")

WATCH_S = 0.1
"""So often deadlines, memory and silence are looked at while a request is on its way."""

SAID_BYTES = 16384
"""How much of the end of the child's stderr is read to say why it died."""

CHILD = """import sys
from lora_cli.runtime.parent_connection import end_when_orphaned, end_with_pipe
end_with_pipe(int(sys.argv[3]))
end_when_orphaned(int(sys.argv[2]))
from importlib import import_module
import_module(sys.argv[1]).main(int(sys.argv[2]))
"""
"""The import of torch alone takes seconds."""


class Died(MachineError):
    """A child process ended while it was asked. ``alone`` says that nothing else was asked of it: it was for this."""

    def __init__(self, message: str, *, hint: str = "", alone: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.alone = alone


class Broken(Died):
    """It ended by an error of its own: a bug in lora-cli."""

    exit_code = 70


class TookTooLong(Died):
    """It was killed because this request took longer than it may."""


class TookTooMuch(Died):
    """It was killed because it took more memory than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a child process runs, ``main`` of ``module``, and its limits.

    ``title`` is what messages call it, ``killed_hint`` what to try when the kernel killed it. Where it takes more than
    ``max_bytes`` of memory while it is asked something, it is killed; None is no limit. Memory is measured ten times a
    second, on Linux alone. With ``silent_s`` it is killed when it says nothing for so long while it is asked.
    ``environ`` is for variables that the user has not set. Where it is ``shown``, it shares our stderr.
    ``stop_deadline_s`` is how long it may take to end after its connection closed, and again after SIGTERM.
    """

    module: str
    title: str
    stop_deadline_s: float
    environ: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int | None = None
    silent_s: float | None = None
    killed_hint: str = ""
    shown: bool = False


def _nobody(*_said: object) -> None:
    """It is ignored."""


@dataclass(slots=True, eq=False)
class Asked:
    """One request, to be on its way for at most ``limit_s`` seconds (None: as long as it takes).

    ``name`` is the adapter's, ``stage`` the last that the child reported of it. ``tell`` is called with each stage with
    the name, and ``heard`` what comes of a batch before its end, in the thread that listens to the child.
    """

    name: str = ""
    limit_s: float | None = None
    stage: str = ""
    tell: Callable[[str, str], None] = _nobody
    heard: Callable[[Heard], None] = _nobody
    until: float | None = None
    future: "Future[object]" = field(default_factory=Future)

    def answer(self, kind: type[T]) -> T:
        """Wait for it. Raises what the child raised, or why there is no answer."""
        said = self.future.result()
        assert isinstance(said, kind)
        return said


class ChildProcess:
    """A new interpreter (no fork) that runs ``program``, from its start to its end.

    It is sent ``(number, message)`` and says ``(number, answer)``, in any order. ``setup`` is sent first: what it
    answers to that, within ``limit_s`` seconds, is the answer of ``stands``. ``open`` says whether the line to it still
    is, as far as is known. ``died`` hears once why it died where it stood and nobody ended it, in the thread that
    listens.
    """

    def __init__(
        self,
        program: Program,
        setup: object,
        limit_s: float | None = None,
        tell: Callable[[str, str], None] = _nobody,
        died: Callable[[Died], None] = _nobody,
    ) -> None:
        self.program, self.open = program, True
        self._died, self._ended = died, False
        self._asked: dict[int, Asked] = {}
        self._last = 0
        self._late: list[Asked] = []
        self._too_much = self._silent = False
        self._lock, self._sending = threading.Lock(), threading.Lock()
        try:
            self._socket = self._start()
        except OSError as error:
            raise MachineError(
                f"{program.title} cannot be started: {error.strerror}{f': {error.filename}' if error.filename else ''}",
                hint="check that this user may run that file, and the memory and limits of this machine",
            ) from error
        self._connection: Connection[Any, Any] = Connection(os.dup(self._socket.fileno()))
        self._heard_at = monotonic()
        self._thread = threading.Thread(target=self._listen, name=program.title, daemon=True)
        self._thread.start()
        self.stands = self.ask(Asked("", limit_s, "start", tell), setup)

    def _start(self) -> socket.socket:
        """Start it; gives our end of the socket to it."""
        with ExitStack() as opened:
            self._said = opened.enter_context(tempfile.TemporaryFile())
            ours, theirs = map(opened.enter_context, socket.socketpair())
            lifeline, self._lifeline = os.pipe()
            opened.callback(os.close, self._lifeline)
            try:
                self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
                    [sys.executable, "-P", "-c", CHILD, self.program.module, str(theirs.fileno()), str(lifeline)],
                    pass_fds=[theirs.fileno(), lifeline],
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=None if self.program.shown else subprocess.STDOUT,
                    env={**self.program.environ, **os.environ, "PYTHONPATH": _import_path()},
                )
            finally:
                os.close(lifeline)
            theirs.close()
            opened.pop_all()  # what is ours lives as long as the process
        return ours

    def ask(self, asked: Asked, message: object) -> Asked:
        """Send ``message``; the answer is that of ``asked``. Never raises: what went wrong is the answer."""
        asked.until = None if asked.limit_s is None else monotonic() + asked.limit_s
        with self._lock:
            self._last += 1
            number, is_open = self._last, self.open
            if is_open:
                self._asked[number] = asked
        if not is_open:
            asked.future.set_exception(self._reason(asked))
            return asked
        # What cannot be sent is found out by the thread that listens, and why.
        with suppress(OSError), self._sending:
            self._connection.send((number, message))
        return asked

    def kill(self) -> None:
        """End it at once; callers that wait for an answer get the error."""
        self._ended = True
        self.process.kill()

    def close(self) -> None:
        """End it: it goes by itself when nothing more can come, else it is made to. All that was asked is answered."""
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
        self._said.close()

    def memory_bytes(self) -> int | None:
        """The memory that is its own now (not of files); None if that is not known."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except (OSError, UnicodeDecodeError):
            return None
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")

    def _listen(self) -> None:
        try:
            while True:
                if self._connection.poll(WATCH_S):
                    self._hear(*self._connection.recv())
                elif self._asked:
                    self._watch()
        except (EOFError, OSError):
            # OSError: it died in the middle of what it said.
            self._end()

    def _hear(self, number: int, said: object) -> None:
        self._heard_at = monotonic()
        with self._lock:
            asked = self._asked.get(number)
        if isinstance(said, Logged):
            logger(said.logger).log(said.level, "%s", said.text)
        elif asked is None:
            return
        elif isinstance(said, Stage):
            asked.stage = said.name
            asked.tell(asked.name, said.name)
        elif isinstance(said, Placed | Piece | Unanswered):
            asked.heard(said)
        else:
            with self._lock:
                del self._asked[number]
            if isinstance(said, LoraCliError):
                asked.future.set_exception(said)
            else:
                asked.future.set_result(said)

    def _watch(self) -> None:
        """Kill it if a request is over its deadline, or if it takes too much, or is stuck."""
        now, most, silent_s = monotonic(), self.program.max_bytes, self.program.silent_s
        with self._lock:
            late = [asked for asked in self._asked.values() if asked.until is not None and asked.until <= now]
        for asked in late:
            asked.until = None
        self._late += late
        self._too_much |= most is not None and (self.memory_bytes() or 0) > most
        self._silent |= silent_s is not None and now - self._heard_at > silent_s
        if late or self._too_much or self._silent:
            self.process.kill()

    def _end(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.program.stop_deadline_s)
        with self._lock:
            self._death = self._why(alone=len(self._asked) == 1)
            self.open = False
            left = list(self._asked.values())
            self._asked.clear()
        with self._sending:
            self._connection.close()
        stood = self.stands.future.done() and self.stands.future.exception() is None
        for asked in left:
            asked.future.set_exception(self._reason(asked))
        if stood and not self._ended:
            kind, message, hint, alone = self._death
            self._died(kind(message, hint=hint, alone=alone))

    def _reason(self, asked: Asked) -> LoraCliError:
        """Why there is no answer; an error of its own for each request."""
        title, (kind, message, hint, alone) = self.program.title, self._death
        if asked in self._late:
            return TookTooLong(f"{title} took longer than {asked.limit_s:g} s and was killed")
        return kind(message, hint=hint, alone=alone)

    def _why(self, *, alone: bool) -> tuple[type[Died], str, str, bool]:
        """Why it died, from its exit status and the end of its stderr. An error of its own is a bug in lora-cli."""
        status, said, title = self.process.poll(), self._last_words(), self.program.title
        if self._late:
            return Died, f"{title} was killed: {self._late[0].name or 'its start'} took too long", "", False
        if self._too_much:
            most = self.program.max_bytes
            return TookTooMuch, f"{title} took more than {most} bytes of memory and was killed", "", alone
        if self._silent:
            return Died, f"{title} did not respond for {self.program.silent_s:g} s and was killed", "", alone
        if status is not None and status < 0:
            hint = self.program.killed_hint if -status == signal.SIGKILL else said
            return Died, f"{title} was killed by {signal.Signals(-status).name}", hint, alone
        return Broken, f"{title} died: {said or f'exit status {status}'}", "please report this", alone

    def _last_words(self) -> str:
        """The last line that the child wrote."""
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - SAID_BYTES))
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _import_path() -> str:
    """Where the child imports from: as we do, but never from the directory that we happen to be in."""
    return os.pathsep.join([*(entry for entry in sys.path if entry), str(Path(__file__).parents[2])])
