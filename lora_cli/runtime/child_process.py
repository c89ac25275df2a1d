"""One child process of ours: started, heard, watched, ended; and why it died. Torch-free."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from lora_cli.errors import LoraCliError, MachineError
from lora_cli.runtime.channel import Asked, Channel

SAID_BYTES = 16384
"""How much of the end of the child's stderr is read to say why it died."""

CHILD = """import sys
from lora_cli.runtime.parent import end_when_orphaned, end_with_pipe
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
    """It ended by an error of its own: a bug of ours."""

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
    ``environ`` is for variables that the user has not set. Where it is ``shown``, its stderr is ours.
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


class ChildProcess:
    """A new interpreter (no fork) that runs ``program``, from its start to its end."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._late: list[Asked] = []
        self._too_much = self._silent = False
        try:
            ours = self._start()
        except OSError as error:
            raise MachineError(
                f"{program.title} cannot be started: {error.strerror}",
                hint="look at the memory and limits of this machine",
            ) from error
        self.channel = Channel(ours, overdue=self._overdue, reason=self._death, watch=self._check)

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

    def kill(self) -> None:
        """End it at once; whoever waits for an answer hears that it died."""
        self.process.kill()

    def close(self) -> None:
        """End it: it goes by itself when nothing more can come, else it is made to."""
        self.channel.hang_up()
        for end in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(self.program.stop_deadline_s)
            except subprocess.TimeoutExpired:
                end()
        self.process.wait()
        self.channel.close()
        os.close(self._lifeline)
        self._said.close()

    def memory_bytes(self) -> int | None:
        """The memory that is its own now (not of files); None where that is not known."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except (OSError, UnicodeDecodeError):
            return None
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")

    def _check(self) -> None:
        """Kill it if it takes too much, or is stuck."""
        most, silent_s = self.program.max_bytes, self.program.silent_s
        self._too_much = most is not None and (self.memory_bytes() or 0) > most
        self._silent = silent_s is not None and monotonic() - self.channel.heard_at > silent_s
        if self._too_much or self._silent:
            self.process.kill()

    def _overdue(self, late: list[Asked]) -> None:
        self._late += late
        self.process.kill()

    def _death(self, left: list[Asked]) -> Callable[[Asked], LoraCliError]:
        """Why it died, from its exit status and the end of its stderr. An error of its own is a bug of ours."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.program.stop_deadline_s)
        status, said, title = self.process.poll(), self._last_words(), self.program.title
        if self._late:
            return self._was_late
        alone = len(left) == 1
        if self._too_much:
            message = f"{title} took more than {self.program.max_bytes} bytes of memory and was killed"
            return lambda _asked: TookTooMuch(message, alone=alone)
        if self._silent:
            message = f"{title} did not answer for {self.program.silent_s:g} s and was killed"
            return lambda _asked: Died(message, alone=alone)
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            hint = self.program.killed_hint if -status == signal.SIGKILL else said
            return lambda _asked: Died(f"{title} was killed by {name}", hint=hint, alone=alone)
        message = f"{title} died: {said or f'exit status {status}'}"
        return lambda _asked: Broken(message, hint="please report this", alone=alone)

    def _was_late(self, asked: Asked) -> LoraCliError:
        if asked in self._late:
            return TookTooLong(f"{self.program.title} took longer than {asked.limit_s:g} s and was killed")
        whose = self._late[0].name
        return Died(f"{self.program.title} was killed: {whose or 'its start'} took too long", alone=False)

    def _last_words(self) -> str:
        """The last line that the child wrote."""
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - SAID_BYTES))
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _import_path() -> str:
    """Where the child imports from: as we do, but never from the directory that we happen to stand in."""
    return os.pathsep.join([*(entry for entry in sys.path if entry), str(Path(__file__).parents[2])])
