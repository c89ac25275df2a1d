"""Connections of clients: how long each may be silent, and how many there are.

A connection is *waiting* while the server has no complete request from it. There are at most
``ConnectionLimits.most`` connections. A new one closes the one that has waited longest, so that silent clients do not
block others.
"""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from random import random
from typing import Any, ClassVar

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

HEAD_S = 10.0
"""How long the head of a request may take from its first byte, and the first one from the connection's beginning."""

BODY_S = 30.0
"""How long the body of a request may take."""

IDLE_S = 30.0
"""How long a connection may be silent between two requests."""

UNREAD_S = 30.0
"""How long a client may leave its answer unread."""

SPREAD = 0.2
"""A random share added to each timeout, so that connections opened together are not closed together."""

MOST_CONNECTIONS, MOST_REQUESTS = 2048, 1024
OTHER_FILES = 256
"""Open files that the server needs besides its connections."""

SMALL_BODY, MOST_BODIES = 1 << 14, 32 << 20
"""Bytes of a body that each connection may buffer, and the total of all larger bodies."""


class ConnectionLimits:
    """The shared limits of a server: ``most`` connections, and ``requests`` answered at once."""

    def __init__(self, most: int = MOST_CONNECTIONS, requests: int = MOST_REQUESTS) -> None:
        self.most, self.requests = most, requests
        self.answering = self.bodies = 0
        self._waiting: dict[Connection, None] = {}

    def add_waiting(self, one: "Connection") -> None:
        """The connection waits for a request from now on."""
        self._waiting.pop(one, None)
        self._waiting[one] = None

    def remove_waiting(self, one: "Connection") -> None:
        """The connection is being answered, or closed."""
        self._waiting.pop(one, None)

    def drop_oldest(self) -> None:
        """Close the connection that has waited longest."""
        oldest = next(iter(self._waiting), None)
        if oldest is not None:
            self.remove_waiting(oldest)
            oldest.drop()


def connection_limits() -> ConnectionLimits:
    """The limits that the number of open files allows, up to ``MOST_CONNECTIONS``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = max(64, min(MOST_CONNECTIONS, soft - OTHER_FILES))
    return ConnectionLimits(most, most // 2)


class Connection(H11Protocol):
    """One client's connection, with timeouts."""

    limits: ClassVar[ConnectionLimits]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._in_head = False
        self._answering = self._body = 0
        self._needs_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.most:
            self.limits.drop_oldest()
        self.limits.add_waiting(self)
        self._start_timer(HEAD_S)

    def data_received(self, data: bytes) -> None:
        """Start the timeout of a request's head at its first byte."""
        if not self._answering and not self._in_head:
            self._in_head = True
            self._start_timer(HEAD_S)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._cancel_timer()
        self._cancel_unread_timer()
        self.limits.remove_waiting(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: close the connection after ``UNREAD_S``."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_S, self.drop)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._cancel_unread_timer()

    def shutdown(self) -> None:
        """Shut down; a request whose body is incomplete is dropped."""
        if self._needs_body:
            self.drop()
        else:
            super().shutdown()

    def drop(self) -> None:
        """Close it at once."""
        self.transport.abort()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Within the block a request is being answered."""
        self._answering += 1
        self.limits.answering += 1
        self.limits.remove_waiting(self)
        self._cancel_timer()
        try:
            yield
        finally:
            self._answering -= 1
            self.limits.answering -= 1
            if not self._answering and not self.transport.is_closing():
                self._in_head = False
                self.limits.add_waiting(self)
                self._start_timer(IDLE_S)
            if not self._answering:
                self.limits.bodies, self._body = self.limits.bodies - self._body, 0

    def reserve_body(self, size: int) -> bool:
        """Count ``size`` more bytes of a body until its request is answered; whether they are within the limit."""
        self._body += size
        self.limits.bodies += size
        return self.limits.bodies <= MOST_BODIES

    @contextmanager
    def waiting_for_body(self) -> Iterator[None]:
        """Within the block, inside ``answering``, the body of the request is being received."""
        self._needs_body = True
        self.limits.answering -= 1
        self.limits.add_waiting(self)
        self._start_timer(BODY_S)
        try:
            yield
        finally:
            self._needs_body = False
            self.limits.answering += 1
            self.limits.remove_waiting(self)
            self._cancel_timer()

    def _cancel_unread_timer(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _start_timer(self, seconds: float) -> None:
        self._cancel_timer()
        spread = 1 + SPREAD * random()  # noqa: S311 - no secret
        self._timer = self.loop.call_later(seconds * spread, self.drop)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def protocol(limits: ConnectionLimits) -> type[Connection]:
    """The class of the connections that share ``limits``: uvicorn's ``http``."""
    return type("Connection", (Connection,), {"limits": limits})
