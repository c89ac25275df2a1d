"""The child's end of the connection to its parent: requests come in, answers go out from any thread. Torch-free."""

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

Send = Callable[[object], None]


class Parent:
    """Holds the connection. This process ends at once when it finds that the parent is gone.

    Signals of a terminal are for the parent: it closes the connection when it ends.
    """

    def __init__(self, descriptor: int) -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._connection: Connection[Any, Any] = Connection(descriptor)
        self._sending = threading.Lock()

    def receive(self) -> tuple[int, Any]:
        """The next request, and its number. Raises ``EOFError`` when no more will come."""
        try:
            number, request = self._connection.recv()
        except ConnectionResetError:
            os._exit(0)
        return number, request

    def reply(self, number: int) -> Send:
        """What sends answers to that request."""

        def send(answer: object) -> None:
            try:
                with self._sending:
                    self._connection.send((number, answer))
            except (BrokenPipeError, ConnectionResetError):
                os._exit(0)

        return send
