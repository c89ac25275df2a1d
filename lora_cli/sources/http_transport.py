"""HTTP requests over urllib3: addresses are checked before they are connected to, and answers are bounded.

The environment's proxies and certificates are used. Redirects and retries are the caller's (``sources.http``). It
imports urllib3, so it is imported with the first request.
"""

import functools
import io
import os
import re
import socket
import ssl
import sys
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ProtocolError

from lora_cli import __version__
from lora_cli.core.web_address import DEFAULT_PORTS
from lora_cli.errors import UsageError
from lora_cli.redaction import remember
from lora_cli.sources.http import host, origin
from lora_cli.sources.http_failures import NoConnection, translate_broken, translate_no_connection
from lora_cli.sources.retries import CONNECT_TIMEOUT_S, Transient, enforce_min_throughput

if TYPE_CHECKING:
    from lora_cli.sources.ssrf_guard import Guard

CHUNK = 256 * 1024
WHOLE = 1 << 20
"""A body of at most so many bytes is asked for as one piece: fewer turns. Of many larger ones each would hold much."""

MOST_HEAD = 64 * 1024
MOST_IDLE = 64
IDLE_S = 30.0
DRAINED = 16 * 1024
DRAIN_S = 0.5
RESOLVED_S = 30.0
"""How long the addresses of a name are used before it is resolved again."""

OWN_HEADERS = {"User-Agent": f"lora-cli/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}

_reached: dict[tuple[str, int], str] = {}
"""The address of a server that could be connected to where another could not, which would cost each request time."""


class _ClosedMeanwhile(ConnectionError):
    """A connection that was kept open was closed at the very moment of the next request, which another may answer."""


class _AnswerReader(io.RawIOBase):
    """The stream from which http.client reads a response: bounded in time, and in bytes until the end of the head.

    http.client takes the end of a connection for the end of the head (``ended``), and discards what came before an
    error. With ``keeps``, an error ends the piece that is being read, and is raised with the next one.
    """

    def __init__(self, raw: io.RawIOBase, timeout_s: float) -> None:
        self._raw = raw
        self.error: OSError | None = None
        self.ended = False
        self.left: int | None = MOST_HEAD  # None once the head has come: a body may have any length
        self.begin(timeout_s)

    def begin(self, timeout_s: float, *, keeps: bool = False) -> None:
        """Limit the next reads to ``timeout_s``; with ``keeps``, bytes that came until then are returned."""
        self.began_at = time.monotonic()
        self._until, self._keeps, self._is_first = self.began_at + timeout_s, keeps, True

    def readable(self) -> bool:
        """As ``io.RawIOBase``."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As ``io.RawIOBase``.

        Raises:
            OSError: the connection broke or is silent, or the time is over.
            HTTPException: the head is too large.
        """
        try:
            count = self._read(buffer)
        except OSError as error:
            if not self._keeps:
                raise
            self.error = error
            return 0
        self.ended = not count
        if self.left is not None:
            self.left -= count
            if self.left < 0:
                raise HTTPException("the response headers are too large")
        return count

    def _read(self, buffer: Any) -> int:
        if self.error is not None:
            raise self.error
        if self._is_first or time.monotonic() < self._until:
            self._is_first = False
            return self._raw.readinto(buffer) or 0
        if self._keeps:
            return 0
        raise TimeoutError

    def close(self) -> None:
        """As ``io.RawIOBase``."""
        self._raw.close()
        super().close()


class _Socket:
    """The socket of a connection, whose answers are read by an ``_AnswerReader``."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.reader: _AnswerReader | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def makefile(self, mode: str) -> io.BufferedReader:
        """The stream from which http.client reads the next response."""
        self.reader = _AnswerReader(self._sock.makefile(mode, buffering=0), self._sock.gettimeout())
        return io.BufferedReader(self.reader)


class _Connection(HTTPConnection):
    """A connection of urllib3 with translated errors and bounded answers."""

    reader: _AnswerReader | None = None
    """Of the last answer that came over it; None before the first one."""

    def connect(self) -> None:
        """As ``HTTPConnection``.

        Raises:
            NoConnection: there is none.
        """
        self.reader = None
        try:
            super().connect()
        except (OSError, ValueError, HTTPError, HTTPException) as error:
            by_proxy = self.proxy is not None and not isinstance(error, HTTPError | TimeoutError | ssl.SSLError)
            raise NoConnection(by_proxy=by_proxy) from error
        self.sock = cast(socket.socket, _Socket(self.sock))

    @property
    def is_connected(self) -> bool:
        """Whether it can be used again: one that was idle for long may have been forgotten on the way."""
        is_idle = self.reader is not None and time.monotonic() - self.reader.began_at > IDLE_S
        return super().is_connected and not is_idle

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3's own
        """As ``HTTPConnection``; the whole head comes within the timeout."""
        sock: Any = self.sock
        try:
            response = super().getresponse()
        except ConnectionError as error:
            if self.reader is not None:
                raise _ClosedMeanwhile from error
            raise
        reader: _AnswerReader = sock.reader
        encoded = response.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked"
        if encoded or reader.ended:
            response.close()
            encoding = "the body has an encoding that was not requested"
            raise HTTPException(encoding if encoded else "the response headers ended early")
        reader.left = None
        self.reader = reader
        return response


class _TlsConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Response:
    """An answer of ``url`` whose body is still to be read. The caller closes it.

    ``peer`` is the address that it came from, "" through a proxy.
    """

    def __init__(self, raw: urllib3.HTTPResponse, url: str, peer: str, timeout_s: float) -> None:
        connection = raw.connection
        assert isinstance(connection, _Connection)
        assert connection.reader is not None
        self._raw, self._reader, self._timeout_s = raw, connection.reader, timeout_s
        self.url, self.peer, self.status = url, peer, raw.status
        self.headers: Mapping[str, str] = raw.headers

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes, at most 1 MiB at a time.

        Raises:
            Transient: it is compressed, broke, is silent for the timeout, or trickles at less than 1 KiB/s over that.
        """
        server = host(self.url)
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise Transient(f"{server} sent a compressed body that was not requested", hint="check for a proxy")
        return self.encoded_chunks()

    def encoded_chunks(self) -> Iterator[bytes]:
        """As ``chunks``, of a body that is what it is, however it is encoded."""
        length = self._raw.length_remaining
        most = WHOLE if length is not None and length <= WHOLE else CHUNK
        pieces = iter(functools.partial(self._read, most), b"")
        return enforce_min_throughput(pieces, host(self.url), self._timeout_s, lambda: self._reader.error is not None)

    def _read(self, most: int) -> bytes:
        """At most ``most`` bytes: those that came within the timeout, or before an error. Empty at the end."""
        # Where no length is said, the end of the connection is the end of the body: nothing may look like it.
        is_sized = self._raw.length_remaining is not None
        self._reader.begin(self._timeout_s, keeps=is_sized)
        read = self._raw.read if is_sized else self._raw.read1
        try:
            return read(most, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:
            raise translate_broken(self._reader.error or error, self.url, self._timeout_s) from error

    def close(self) -> None:
        """Keeps the connection for the next request when the body is read, or as good as read; else closes it."""
        left = self._raw.length_remaining
        if left is not None and left <= DRAINED and self._reader.error is None and not self._raw.isclosed():
            # The few words of a redirect are cheaper to read than a new connection is to make; not those that trickle.
            self._reader.begin(DRAIN_S, keeps=True)
            connection: Any = self._raw.connection
            if connection.sock is not None:
                connection.sock.settimeout(DRAIN_S)
            with suppress(HTTPError, OSError):
                self._raw.read(DRAINED, decode_content=False)
        self._raw.close()


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that the environment names, and the headers that it gets."""

    url: str
    authorization: str = field(default="", repr=False)


Body = bytes | Iterable[bytes] | None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: Body = field(repr=False)


def send(
    url: str,
    headers: Mapping[str, str],
    timeout_s: float,
    allowed: "Guard | None" = None,
    *,
    method: str = "GET",
    body: Body = None,
) -> Response:
    """The answer to a request as far as its headers; redirects are the caller's. The caller closes it.

    ``allowed`` checks each address that the server's name stands for, one of which is then connected to; of a server
    behind a proxy, its name. A ``body`` in pieces is sent once: the caller starts it again.

    Raises:
        Transient: the network failed.
        Refused: the address is not allowed.
        UsageError: the environment names proxies or certificates that cannot be used.
    """
    scheme, name, port = origin(url)
    proxy = proxy_for(scheme, name, port)
    try:
        addresses = resolve(name, port) if proxy is None else (_ascii(name),)
        if allowed is not None:
            for address in addresses:
                allowed(address)
        return _first_answer(addresses, proxy, _Request(method, url, headers, body), timeout_s)
    except NoConnection as error:
        raise translate_no_connection(error, url, timeout_s) from error
    except (HTTPError, OSError, ValueError) as error:
        raise translate_broken(error, url, timeout_s) from error


def resolve(name: str, port: int) -> tuple[str, ...]:
    """The addresses of a server, in the order in which they are tried: the one that was connected to last is first.

    Raises:
        NoConnection: its name is not known.
    """
    try:
        found = _resolved(name, port, int(time.monotonic() / RESOLVED_S))
    except (OSError, UnicodeError) as error:
        raise NoConnection from error
    reached = _reached.get((name, port))
    return tuple(sorted(found, key=lambda address: address != reached))


@functools.lru_cache(1024)
def _resolved(name: str, port: int, _: int) -> tuple[str, ...]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


def _first_answer(addresses: tuple[str, ...], proxy: Proxy | None, request: _Request, timeout_s: float) -> Response:
    """The answer of the first address that can be connected to."""
    url = request.url
    scheme, name, port = origin(url)
    sent = {"Host": _authority(scheme, name, port), **OWN_HEADERS, **request.headers}
    if re.search(r"[\r\n\0]", "".join(sent.values())):
        raise ValueError("a header contains a control character")
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    options: dict[str, Any] = {}
    if scheme == "https" or (proxy is not None and proxy.url.startswith("https:")):
        options["ssl_context"] = tls()
    if proxy is None and scheme == "https":
        options["server_hostname"] = name
    if proxy is not None and scheme == "http":
        target = f"http://{sent['Host']}{target}"
    timeout = urllib3.Timeout(connect=min(timeout_s, CONNECT_TIMEOUT_S), read=timeout_s)
    failures = []
    for address in addresses:
        pool = manager(proxy, os.getpid()).connection_from_host(address, port, scheme, options)
        try:
            raw = _answer(pool, replace(request, url=target, headers=sent), timeout)
        except NoConnection as error:
            failures.append(error)
            continue
        if failures:
            _reached[name, port] = address
        return Response(raw, url, "" if proxy is not None else address, timeout_s)
    raise failures[0]


def _answer(pool: urllib3.HTTPConnectionPool, request: _Request, timeout: urllib3.Timeout) -> urllib3.HTTPResponse:
    while True:
        try:
            answer = pool.urlopen(
                request.method,
                request.url,
                request.body,
                request.headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except ProtocolError as error:
            if not isinstance(error.args[-1], _ClosedMeanwhile) or not isinstance(request.body, bytes | None):
                raise
        else:
            assert isinstance(answer, urllib3.HTTPResponse)
            return answer


@functools.cache
def manager(proxy: Proxy | None, process: int) -> urllib3.PoolManager:
    """The connections of a process, direct ones or those through a proxy. A fork must not speak on its parent's."""
    options: dict[str, Any] = {"num_pools": MOST_IDLE, "maxsize": MOST_IDLE}
    if proxy is None:
        pools = urllib3.PoolManager(**options)
    else:
        proxy_headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        context = tls() if proxy.url.startswith("https:") else None
        pools = urllib3.ProxyManager(proxy.url, proxy_headers=proxy_headers, proxy_ssl_context=context, **options)
    pools.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pools


def _authority(scheme: str, name: str, port: int) -> str:
    """The ``Host`` header: without the scheme's default port."""
    called = f"[{name}]" if ":" in name else _ascii(name)
    return called if port == DEFAULT_PORTS[scheme] else f"{called}:{port}"


def _ascii(name: str) -> str:
    return name if name.isascii() else name.encode("idna").decode()


@functools.lru_cache(1024)
def proxy_for(scheme: str, name: str, port: int) -> Proxy | None:
    """The proxy that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` demand for a server, if any.

    Raises:
        UsageError: what the environment names cannot be used.
    """
    if (certificates := os.environ.get("SSL_CERT_FILE")) and not Path(certificates).is_file():
        raise _unusable("certificates", "check SSL_CERT_FILE")
    proxies = getproxies()
    url = proxies.get(scheme) or proxies.get("all") or ""
    if not url or proxy_bypass(f"{name}:{port}"):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        hint = "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY: write a proxy as http://HOST:PORT"
        raise _unusable("proxy", hint)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return Proxy(address, _basic(parts.username, parts.password))


def _basic(user: str | None, password: str | None) -> str:
    """The ``Basic`` credentials of RFC 7617; nothing without a user."""
    if user is None:
        return ""
    encoded = b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
    for secret in (unquote(password or ""), encoded):
        remember(secret)
    return f"Basic {encoded}"


@functools.cache
def tls() -> ssl.SSLContext:
    """Which certificates are trusted: those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, else those of this system.

    truststore knows where these are, and does one handshake at a time: it is for where OpenSSL does not find them.

    Raises:
        UsageError: they cannot be read.
    """
    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    try:
        context = ssl.create_default_context(cafile=file, capath=folder)
    except (OSError, ValueError) as error:
        raise _unusable("certificates", "check SSL_CERT_FILE and SSL_CERT_DIR") from error
    if file or folder or (sys.platform == "linux" and context.cert_store_stats()["x509_ca"]):
        return context
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _unusable(what: str, hint: str) -> UsageError:
    return UsageError(f"the {what} in the environment cannot be used", hint=hint)
