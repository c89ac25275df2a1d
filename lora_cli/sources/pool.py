"""The connections of this process: the standard library's HTTP/1.1, kept open between requests.

It is imported with the first request. What goes wrong leaves as it comes: ``sources.connection`` says what it means.
"""

import atexit
import http.client
import io
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from lora_cli.sources.route import PORTS, Route, route_to, tls

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from lora_cli.sources.private import Guard

MOST_IDLE = 64
IDLE_S = 30.0
DRAINED = 16 * 1024
DRAIN_S = 0.5


class NoConnection(Exception):
    """There was none to the server; the cause says why. ``by_proxy`` when a proxy did not pass us on."""

    by_proxy = False


class Headers(Mapping[str, str]):
    """The header fields of an answer, whatever the case of their names; those of one name are joined."""

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in fields:
            known = self._values.get(name.lower())
            self._values[name.lower()] = value if known is None else f"{known}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _Hurried(io.RawIOBase):
    """What comes from a socket: all of it within the socket's own timeout until ``begun``, then each piece is."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket) -> None:
        self._stream, self._sock, self._timeout_s = stream, sock, sock.gettimeout()
        self._until = None if self._timeout_s is None else time.monotonic() + self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        if self._until is not None:
            self._sock.settimeout(max(0.001, self._until - time.monotonic()))
        return self._stream.readinto(buffer)

    def begun(self) -> None:
        self._until = None
        self._sock.settimeout(self._timeout_s)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Raw(http.client.HTTPResponse):
    """An answer whose head comes within the timeout; the standard library would wait that long for each byte of it."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._hurried = _Hurried(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._hurried)

    def begin(self) -> None:
        super().begin()
        if not self.isclosed():
            self._hurried.begun()


class Response:
    """An answer of ``url`` whose body is still to be read. Whoever has it closes it.

    ``peer`` is the address that it came from, "" through a proxy.
    """

    def __init__(
        self, url: str, route: Route, peer: str, connection: http.client.HTTPConnection, raw: http.client.HTTPResponse
    ) -> None:
        self.url, self.status, self.headers = url, raw.status, Headers(raw.headers.items())
        self.peer = peer
        self._route, self._connection, self._raw = route, connection, raw

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes of the body as soon as there are any, and none at its end.

        Raises:
            OSError, http.client.HTTPException: the connection broke, is silent, or ended before the body did.
        """
        piece = self._raw.read1(size)
        if not piece and self._raw.length:
            raise http.client.IncompleteRead(b"", self._raw.length)
        return piece

    def close(self) -> None:
        """Keeps the connection for the next request when the body is read, or as good as read; else closes it."""
        keep = not self._raw.will_close and self._is_read()
        self._raw.close()
        if keep:
            _idle.give(self._route, self._connection)
        else:
            self._connection.close()

    def _is_read(self) -> bool:
        if self._raw.isclosed() or self._raw.length == 0:
            return True
        if self._raw.length is None or self._raw.length > DRAINED or self._connection.sock is None:
            return False
        # The few words of a redirect are cheaper to read than a new connection is to make.
        self._connection.sock.settimeout(DRAIN_S)
        try:
            while self._raw.length and self._raw.read1(DRAINED):
                pass
        except (OSError, http.client.HTTPException):
            return False
        return self._raw.length == 0


class _Idle:
    """Connections that wait for the next request to their server; threads share them."""

    def __init__(self) -> None:
        self.forget()

    def take(self, route: Route) -> http.client.HTTPConnection | None:
        """The latest that is still open, as far as can be seen, or None."""
        while True:
            with self._lock:
                found = next((entry for entry in reversed(self._waiting) if entry[0] == route), None)
                if found is None:
                    return None
                self._waiting.remove(found)
            _, connection, since = found
            if time.monotonic() - since < IDLE_S and _is_quiet(connection):
                return connection
            connection.close()

    def give(self, route: Route, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._waiting.append((route, connection, time.monotonic()))
            oldest = self._waiting.pop(0) if len(self._waiting) > MOST_IDLE else None
        if oldest is not None:
            oldest[1].close()

    def close(self) -> None:
        for _, connection, _ in self._waiting:
            connection.close()

    def forget(self) -> None:
        """Starts anew: a child must not speak on its parent's connections."""
        self._waiting: list[tuple[Route, http.client.HTTPConnection, float]] = []
        self._lock = threading.Lock()

    def leave_to_parent(self) -> None:
        """Closes our ends of them, without a word to the server."""
        self.close()
        self.forget()


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether nothing came that nobody asked for: the end of the connection, most of the time."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return not poll.poll(0)


_idle = _Idle()
atexit.register(_idle.close)
os.register_at_fork(after_in_child=_idle.leave_to_parent)


def get(
    url: str,
    headers: Mapping[str, str],
    connect_s: float,
    timeout_s: float,
    allowed: "Guard | None" = None,
    *,
    method: str = "GET",
) -> Response:
    """The answer to a GET (or a HEAD) as far as its headers, over a connection that is open already or a new one.

    ``allowed`` judges each address before it is connected to, and the one that was before anything is sent; of a
    server behind a proxy, its name.

    Raises:
        LoraCliError: what ``allowed`` raises.
        NoConnection: to the server.
        OSError, http.client.HTTPException, ValueError: the exchange failed.
        UsageError: the environment names proxies or certificates that cannot be used.
    """
    parts = urlsplit(url)
    route = route_to(parts.scheme, parts.hostname or "", parts.port or PORTS[parts.scheme])
    while (kept := _idle.take(route)) is not None:
        try:
            return _asked(kept, route, method, url, headers, timeout_s, allowed)
        except ConnectionError:
            # The server closed it at this very moment: that says nothing about the request.
            continue
    if allowed is not None:
        for address in _addresses(route):
            allowed(address)
    return _asked(_connected(route, connect_s), route, method, url, headers, timeout_s, allowed)


def _addresses(route: Route) -> Iterable[str]:
    """Where a connection may go; none when the name is not known, as the connection itself will find."""
    if route.proxy is not None:
        return (route.host,)
    with suppress(OSError, UnicodeError):
        return {str(found[4][0]) for found in socket.getaddrinfo(route.host, route.port, type=socket.SOCK_STREAM)}
    return ()


def _peer(connection: http.client.HTTPConnection) -> str:
    try:
        return str(connection.sock.getpeername()[0])
    except OSError as error:
        raise ConnectionResetError(error.errno, "it was closed before anything was sent") from error


def _asked(
    connection: http.client.HTTPConnection,
    route: Route,
    method: str,
    url: str,
    headers: Mapping[str, str],
    timeout_s: float,
    allowed: "Guard | None",
) -> Response:
    through_proxy = route.proxy is not None and route.scheme == "http"
    try:
        peer = "" if route.proxy else _peer(connection)
        if allowed is not None and peer:
            allowed(peer)
        connection.sock.settimeout(timeout_s)
        connection.putrequest(method, _target(url, absolute=through_proxy), skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if through_proxy and route.authorization:
            connection.putheader("Proxy-Authorization", route.authorization)
        connection.endheaders()
        return Response(url, route, peer, connection, connection.getresponse())
    except BaseException:
        connection.close()
        raise


def _target(url: str, *, absolute: bool) -> str:
    """What stands in the request line: path and query, or all of it for a proxy; never more than ASCII."""
    parts = urlsplit(quote(url, safe="".join(map(chr, range(33, 127)))))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{parts.netloc}{path}" if absolute else path


def _connected(route: Route, connect_s: float) -> http.client.HTTPConnection:
    host, port = route.proxy or (route.host, route.port)
    connection: http.client.HTTPConnection
    if route.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=connect_s, context=tls())
        if route.proxy:
            told = {"Proxy-Authorization": route.authorization} if route.authorization else {}
            connection.set_tunnel(route.host, route.port, told)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=connect_s)
    connection.response_class = _Raw
    try:
        connection.connect()
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        failure = NoConnection(str(error))
        # A proxy that refuses is an OSError of no number in the standard library.
        refused = isinstance(error, http.client.HTTPException) or (type(error) is OSError and error.errno is None)
        failure.by_proxy = route.proxy is not None and refused
        raise failure from error
    return connection
