"""The end of the connection that a child process has to its parent, with which it ends. Torch-free."""

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
    """Ends this process, whatever it is at, when the other end of this socket is gone.

    One that is only shut for writing is not gone: nothing more will come, and what is under way is waited for.
    The thread that watches it needs the interpreter, which a long import or one long match keeps to itself.
    """
    threading.Thread(target=_watch, args=(descriptor,), name="orphan", daemon=True).start()


def end_with_pipe(lifeline: int) -> None:
    """Ends this process at once when the other end of this pipe, which is never written to, is closed.

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
    """Holds the connection. This process ends at once when it finds that the parent is gone.

    Signals of a terminal are for the parent: it closes the connection when it ends.
    """

    def __init__(self, descriptor: int) -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._connection: Connection[Any, Any] = Connection(descriptor)
        self._sending = threading.Lock()

    def requests(self) -> Iterator[tuple[Any, Send]]:
        """Each request, and what sends answers to it, until no more will come."""
        with suppress(EOFError):
            while True:
                try:
                    number, request = self._connection.recv()
                except ConnectionResetError:
                    os._exit(0)
                yield request, partial(self.send, number)

    def send(self, number: int, answer: object) -> None:
        """Answer request ``number``; 0 is none of them."""
        try:
            with self._sending:
                self._connection.send((number, answer))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)
