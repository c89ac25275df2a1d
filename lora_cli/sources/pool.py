"""The connections of this process: HTTP/1.1, kept open between requests.

It is imported with the first request. What goes wrong leaves as it comes: ``sources.connection`` says what it means.
"""

import atexit
import os
import re
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from lora_cli.sources.answers import Body, Connection, Headers, Malformed, read_head
from lora_cli.sources.route import PORTS, Route, route_to, tls
from lora_cli.sources.urls import origin

if TYPE_CHECKING:
    from lora_cli.sources.private import Guard

MOST_IDLE = 64
IDLE_S = 30.0
DRAINED = 16 * 1024
DRAIN_S = 0.5
PRINTABLE = "".join(map(chr, range(33, 127)))


class NoConnection(Exception):
    """There was none to the server; the cause says why. ``by_proxy`` when a proxy did not pass us on."""

    by_proxy = False


class Response:
    """An answer of ``url`` whose body is still to be read. Whoever has it closes it.

    ``peer`` is the address that it came from, "" through a proxy.
    """

    def __init__(self, url: str, route: Route, connection: Connection, *, method: str, timeout_s: float) -> None:
        """Reads the head, which must come within ``timeout_s``."""
        self.status, fields, self._stays = read_head(connection, timeout_s)
        self.url, self.headers, self.peer = url, Headers(fields), connection.peer
        self._body = Body(connection, self.status, fields, method)
        self._route, self._connection = route, connection

    @property
    def left(self) -> int | None:
        """How many bytes of the body, or of its chunk, are still to be read; None when nobody knows."""
        return self._body.left

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes of the body as soon as there are any, and none at its end.

        Raises:
            OSError: the connection broke, is silent, or ended before the body did.
        """
        return self._body.read(size)

    def close(self) -> None:
        """Keeps the connection for the next request when the body is read, or as good as read; else closes it."""
        if self._stays and self._is_read():
            _idle.give(self._route, self._connection)
        else:
            self._connection.close()

    def _is_read(self) -> bool:
        body = self._body
        if body.is_read or body.chunked or body.left is None or body.left > DRAINED:
            return body.is_read
        # The few words of a redirect are cheaper to read than a new connection is to make; not those that trickle.
        self._connection.set_timeout(DRAIN_S)
        until = time.monotonic() + DRAIN_S
        with suppress(OSError):
            while body.read(DRAINED) and time.monotonic() < until:
                pass
        return body.is_read


class _Idle:
    """Connections that wait for the next request to their server; threads share them."""

    def __init__(self) -> None:
        self.forget()

    def take(self, route: Route) -> Connection | None:
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

    def give(self, route: Route, connection: Connection) -> None:
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
        self._waiting: list[tuple[Route, Connection, float]] = []
        self._lock = threading.Lock()

    def leave_to_parent(self) -> None:
        """Closes our ends of them, without a word to the server."""
        self.close()
        self.forget()


def _is_quiet(connection: Connection) -> bool:
    """Whether nothing came that nobody asked for: the end of the connection, most of the time."""
    if not connection.is_empty:
        return False
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
        OSError, ValueError: the exchange failed.
        UsageError: the environment names proxies or certificates that cannot be used.
    """
    route = route_to(*origin(url))
    request = _request(route, method, url, headers)
    while (kept := _idle.take(route)) is not None:
        try:
            return _asked(kept, route, request, url, timeout_s, allowed, method=method)
        except ConnectionError:
            # The server closed it at this very moment: that says nothing about the request.
            continue
    if allowed is not None:
        for address in (route.host,) if route.proxy is not None else addresses(route.host, route.port):
            allowed(address)
    return _asked(_connected(route, connect_s), route, request, url, timeout_s, allowed, method=method)


def addresses(host: str, port: int) -> Iterable[str]:
    """Where a connection may go; none when the name is not known, as the connection itself will find."""
    with suppress(OSError, UnicodeError):
        return {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    return ()


def _asked(
    connection: Connection,
    route: Route,
    request: bytes,
    url: str,
    timeout_s: float,
    allowed: "Guard | None",
    *,
    method: str,
) -> Response:
    try:
        if allowed is not None and connection.peer:
            allowed(connection.peer)
        connection.set_timeout(timeout_s)
        connection.sock.sendall(request)
        return Response(url, route, connection, method=method, timeout_s=timeout_s)
    except BaseException:
        connection.close()
        raise


def _request(route: Route, method: str, url: str, headers: Mapping[str, str]) -> bytes:
    """The head of a request.

    Raises:
        ValueError: a header holds what would end it.
    """
    through_proxy = route.proxy is not None and route.scheme == "http"
    lines = [f"{method} {_target(url, absolute=through_proxy)} HTTP/1.1", f"Host: {_name(route)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if through_proxy and route.authorization:
        lines.append(f"Proxy-Authorization: {route.authorization}")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1 or "\0" in text:
        raise ValueError("a header holds a control character")
    return f"{text}\r\n\r\n".encode("latin-1")


def _name(route: Route) -> str:
    """What the server is called: its port is left out where it goes without saying."""
    name = route.host if route.host.isascii() else route.host.encode("idna").decode()
    name = f"[{name}]" if ":" in name else name
    return name if route.port == PORTS[route.scheme] else f"{name}:{route.port}"


def _target(url: str, *, absolute: bool) -> str:
    """What stands in the request line: path and query, or all of it for a proxy; never more than ASCII."""
    plain = url if re.fullmatch("[!-~]+", url) else quote(url, safe=PRINTABLE)
    parts = urlsplit(plain)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme}://{parts.netloc}{path}" if absolute else path


def _connected(route: Route, connect_s: float) -> Connection:
    """A new connection to the server, through its proxy and encrypted where the route says so.

    Raises:
        NoConnection: there is none.
        UsageError: the environment names certificates that cannot be used.
    """
    context = tls() if route.scheme == "https" else None
    by_proxy, sock = False, None
    try:
        sock = socket.create_connection(route.proxy or (route.host, route.port), connect_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = "" if route.proxy else str(sock.getpeername()[0])
        if context is not None and route.proxy is not None:
            by_proxy = True
            _tunnel(sock, route, connect_s)
            by_proxy = False
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=route.host)
    except (OSError, ValueError) as error:
        if sock is not None:
            sock.close()
        failure = NoConnection(str(error))
        failure.by_proxy = by_proxy and isinstance(error, Malformed)
        raise failure from error
    return Connection(sock, peer)


def _tunnel(sock: socket.socket, route: Route, connect_s: float) -> None:
    """Asks the proxy to pass on what follows.

    Raises:
        Malformed: it does not.
    """
    name = _name(route) if route.port != PORTS[route.scheme] else f"{_name(route)}:{route.port}"
    told = f"Proxy-Authorization: {route.authorization}\r\n" if route.authorization else ""
    sock.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{told}\r\n".encode("latin-1"))
    connection = Connection(sock)
    status, _, _ = read_head(connection, connect_s)
    if not 200 <= status < 300 or not connection.is_empty:
        raise Malformed(f"the proxy answered {status}")
