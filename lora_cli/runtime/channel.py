"""The wire to one child: many requests at a time, each with its answer; what is late or lost is found out here."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from os import dup
from time import monotonic
from typing import TypeVar

from lora_cli.core.log import logger
from lora_cli.errors import LoraCliError
from lora_cli.runtime.messages import Heard, Logged, Piece, Placed, Stage, Unanswered

T = TypeVar("T")

WATCH_S = 0.1
"""So often deadlines are looked at, and ``watch`` is called, while a request is on its way."""


class Asked:
    """One request, to be on its way for at most ``limit_s`` seconds (None: as long as it takes).

    ``name`` is the adapter's, ``stage`` the last that the child told of it. ``heard`` is told, in the channel's own
    thread, what comes of a batch before its end.
    """

    def __init__(
        self,
        name: str,
        limit_s: float | None,
        tell: Callable[[str, str], None],
        stage: str = "",
        heard: Callable[[Heard], None] = lambda _said: None,
    ) -> None:
        self.name, self.limit_s, self.tell, self.stage, self.heard = name, limit_s, tell, stage, heard
        self.until: float | None = None
        self.future: Future[object] = Future()

    def answer(self, kind: type[T]) -> T:
        """Wait for it. Raises what the child raised, or why there is no answer."""
        said = self.future.result()
        assert isinstance(said, kind)
        return said


def _meanwhile(asked: Asked, said: Stage | Heard) -> None:
    if isinstance(said, Stage):
        asked.stage = said.name
        asked.tell(asked.name, said.name)
    else:
        asked.heard(said)


class Channel:
    """Sends ``(number, message)`` and hears ``(number, answer)``, in any order, until the child hangs up.

    ``overdue`` is called with requests that took too long: the child is to be killed, and the line ends. ``reason``
    says why it ended, for each request that was left without an answer; it is asked from the channel's own thread.
    An error that the child answers is raised here. ``watch`` may kill the child. ``heard_at`` is when it last said
    anything.
    """

    def __init__(
        self,
        ours: socket.socket,
        *,
        overdue: Callable[[list[Asked]], None],
        reason: Callable[[list[Asked]], Callable[[Asked], LoraCliError]],
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket, self._overdue, self._reason = ours, overdue, reason
        self._watch, self.heard_at = watch, monotonic()
        self._connection = Connection(dup(ours.fileno()))
        self._bell, self._woken = socket.socketpair()
        self._asked: dict[int, Asked] = {}
        self._last = 0
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._over: Callable[[Asked], LoraCliError] | None = None
        self._thread = threading.Thread(target=self._listen, name="warm process", daemon=True)
        self._thread.start()

    @property
    def open(self) -> bool:
        """Whether the line still stands, as far as is known."""
        return self._over is None

    def ask(self, asked: Asked, message: object) -> Asked:
        """Send ``message``; the answer is that of ``asked``. Never raises: what went wrong is the answer."""
        with self._lock:
            if self._over is None:
                asked.until = None if asked.limit_s is None else monotonic() + asked.limit_s
                self._last += 1
                number, self._asked[self._last] = self._last, asked
            else:
                number = 0
                asked.future.set_exception(self._over(asked))
        if number:
            with suppress(OSError):
                # What cannot be sent is found out by the thread that listens, and why.
                self._bell.send(b".")
                with self._sending:
                    self._connection.send((number, message))
        return asked

    def hang_up(self) -> None:
        """Tell the child that nothing more will come."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Wait until all that was asked has its answer or its reason. The child is gone by then."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        try:
            while True:
                ready = wait([self._connection, self._woken], WATCH_S if self._asked else None)
                if self._woken in ready:
                    self._woken.recv(4096)
                if self._connection in ready:
                    self._hear(*self._connection.recv())
                elif late := self._late():
                    self._overdue(late)
                elif self._asked:
                    self._watch()
        except (EOFError, OSError):
            # OSError: it died in the middle of what it said.
            self._end()

    def _hear(self, number: int, said: object) -> None:
        self.heard_at = monotonic()
        if isinstance(said, Stage | Placed | Piece | Unanswered):
            if asked := self._asked.get(number):
                _meanwhile(asked, said)
            return
        if isinstance(said, Logged):
            logger(said.logger).log(said.level, "%s", said.text)
            return
        with self._lock:
            asked = self._asked.pop(number, None)
        if asked is None:
            return
        if isinstance(said, LoraCliError):
            asked.future.set_exception(said)
        else:
            asked.future.set_result(said)

    def _late(self) -> list[Asked]:
        """Requests over their deadline; they are told so once."""
        now = monotonic()
        with self._lock:
            late = [asked for asked in self._asked.values() if asked.until is not None and asked.until <= now]
        for asked in late:
            asked.until = None
        return late

    def _end(self) -> None:
        with self._lock:
            left = list(self._asked.values())
        over = self._reason(left)
        with self._lock:
            left = list(self._asked.values())
            self._asked.clear()
            self._over = over
        with self._sending:
            self._connection.close()
        for end in (self._bell, self._woken):
            end.close()
        for asked in left:
            asked.future.set_exception(over(asked))
