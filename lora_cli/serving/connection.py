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
"""Up to so much longer: what came at once is not closed at once, while others wait."""

MOST_CONNECTIONS, MOST_REQUESTS = 2048, 1024
OTHER_FILES = 256
"""Files that the server needs besides its connections."""

SMALL_BODY, MOST_BODIES = 1 << 14, 32 << 20
"""Bytes of a body that each connection may keep here, and of all bodies that are larger than that."""


class ConnectionLimits:
    """What the connections of one server share: ``most`` of them, and ``requests`` that are answered at once."""

    def __init__(self, most: int = MOST_CONNECTIONS, requests: int = MOST_REQUESTS) -> None:
        self.most, self.requests = most, requests
        self.answering = self.bodies = 0
        self._waiting: dict[Connection, None] = {}

    def waits(self, one: "Connection") -> None:
        """It waits from now on."""
        self._waiting.pop(one, None)
        self._waiting[one] = None

    def waits_no_more(self, one: "Connection") -> None:
        """It is being answered, or gone."""
        self._waiting.pop(one, None)

    def make_place(self) -> None:
        """Close the connection that has waited longest."""
        oldest = next(iter(self._waiting), None)
        if oldest is not None:
            self.waits_no_more(oldest)
            oldest.drop()


def connection_limits() -> ConnectionLimits:
    """As many connections as this process may open files, up to the usual number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = max(64, min(MOST_CONNECTIONS, soft - OTHER_FILES))
    return ConnectionLimits(most, most // 2)


class Connection(H11Protocol):
    """One client's connection, which is closed when it is silent for too long."""

    room: ClassVar[ConnectionLimits]

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
        """It may take ``HEAD_S`` to ask for something."""
        super().connection_made(transport)
        if len(self.connections) > self.room.most:
            self.room.make_place()
        self.room.waits(self)
        self._wait(HEAD_S)

    def data_received(self, data: bytes) -> None:
        """The head of the next request may take ``HEAD_S`` from its first byte."""
        if not self._answering and not self._in_head:
            self._in_head = True
            self._wait(HEAD_S)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for it any more."""
        self._cancel()
        self._reads()
        self.room.waits_no_more(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: for some time that is its own affair."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_S, self.drop)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._reads()

    def shutdown(self) -> None:
        """The server ends: a request that has not come in whole is not waited for."""
        if self._needs_body:
            self.drop()
        else:
            super().shutdown()

    def drop(self) -> None:
        """End it, now."""
        self.transport.abort()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Within the block a request of it is answered."""
        self._answering += 1
        self.room.answering += 1
        self.room.waits_no_more(self)
        self._cancel()
        try:
            yield
        finally:
            self._answering -= 1
            self.room.answering -= 1
            if not self._answering and not self.transport.is_closing():
                self._in_head = False
                self.room.waits(self)
                self._wait(IDLE_S)
            if not self._answering:
                self.room.bodies, self._body = self.room.bodies - self._body, 0

    def keeps(self, size: int) -> bool:
        """Count so many more bytes of a body until its request is answered; whether there is room for them."""
        self._body += size
        self.room.bodies += size
        return self.room.bodies <= MOST_BODIES

    @contextmanager
    def waiting_for_body(self) -> Iterator[None]:
        """Within the block, and within ``answering``, the client is to send the body of its request."""
        self._needs_body = True
        self.room.answering -= 1
        self.room.waits(self)
        self._wait(BODY_S)
        try:
            yield
        finally:
            self._needs_body = False
            self.room.answering += 1
            self.room.waits_no_more(self)
            self._cancel()

    def _reads(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _wait(self, seconds: float) -> None:
        self._cancel()
        spread = 1 + SPREAD * random()  # noqa: S311 - no secret
        self._timer = self.loop.call_later(seconds * spread, self.drop)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def protocol(room: ConnectionLimits) -> type[Connection]:
    """The class of the connections that share ``room``: uvicorn's ``http``."""
    return type("Connection", (Connection,), {"room": room})
