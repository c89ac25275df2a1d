"""The child's end of the connection to its parent; the child ends with it. Torch-free."""

import fcntl
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any


def end_when_orphaned(descriptor: int) -> None:
    """Exit this process as soon as the other end of this socket is closed.

    A half-closed socket is no end: no more requests come, and those under way are completed.
    The thread that watches it needs the interpreter, which a long import or one long match keeps to itself.
    """
    threading.Thread(target=_watch, args=(descriptor,), name="orphan", daemon=True).start()


def end_with_pipe(lifeline: int) -> None:
    """Exit this process at once when the other end of this pipe is closed. Nothing is ever written to it.

    The kernel sends SIGIO then, which needs no thread. Only Linux does so.
    """
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _watch(descriptor: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, 0)  # asks for nothing: that the line is dead is always said
    waiting.poll()
    os._exit(0)


Send = Callable[[object], None]


class ParentConnection:
    """The connection to the parent; one reader. The process exits when the parent is gone.

    Signals of a terminal are for the parent: it closes the connection when it ends.
    """

    def __init__(self, descriptor: int) -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._connection: Connection[Any, Any] = Connection(descriptor)
        self._sending = threading.Lock()

    def requests(self) -> Iterator[tuple[Any, Send]]:
        """Each request with the function that sends its answer, until the parent closes its side."""
        with suppress(EOFError):
            while True:
                try:
                    number, request = self._connection.recv()
                except ConnectionResetError:
                    os._exit(0)
                yield request, partial(self.send, number)

    def send(self, number: int, answer: object) -> None:
        """Send an answer of request ``number``; 0 is for messages without a request."""
        try:
            with self._sending:
                self._connection.send((number, answer))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)
