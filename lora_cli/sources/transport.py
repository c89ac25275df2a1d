"""HTTP requests over urllib3: addresses are checked before they are connected to; redirects and retries are left out.

The environment's proxies and certificates are used. It imports urllib3, so it is imported with the first request.
"""

import functools
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, IncompleteRead
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ProxyError
from urllib3.util import make_headers

from lora_cli import __version__
from lora_cli.core.web_address import DEFAULT_PORTS
from lora_cli.errors import UsageError
from lora_cli.redaction import remember
from lora_cli.sources.http import host, origin
from lora_cli.sources.retries import CONNECT_TIMEOUT_S, Transient, is_unknown_host, printable

if TYPE_CHECKING:
    from lora_cli.sources.ssrf_guard import Guard

CHUNK = 256 * 1024
MOST_IDLE = 64
SLOWEST_BYTES_PER_S = 1024
DRAINED = 16 * 1024
RESOLVED_S = 30.0
"""How long the addresses of a name are used before it is resolved again."""

OWN_HEADERS = {"User-Agent": f"lora-cli/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
ADDRESS = "the address (HF_ENDPOINT for the Hub, AWS_ENDPOINT_URL for S3)"


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of ``url`` whose body is still to be read. The caller closes it.

    ``peer`` is the address that it came from, "" through a proxy.
    """

    raw: urllib3.HTTPResponse = field(repr=False)
    url: str
    peer: str
    timeout_s: float
    status: int
    headers: Mapping[str, str]

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes, at most 256 KiB at a time.

        Raises:
            Transient: it is compressed, broke, is silent for the timeout, or trickles at less than 1 KiB/s over that.
        """
        if self.headers.get("Content-Encoding", "identity") != "identity":
            reason = f"{host(self.url)} sent a compressed body that was not requested"
            raise Transient(reason, hint="check for a proxy")
        return self._paced()

    def _paced(self) -> Iterator[bytes]:
        waited_s, received = 0.0, 0
        while True:
            began = time.monotonic()
            try:
                chunk = self.raw.read1(CHUNK, decode_content=False)
            except (HTTPError, HTTPException, OSError, ValueError) as error:
                raise translate_error(error, self.url, self.timeout_s) from error
            if not chunk:
                return
            # Only time spent waiting for the server counts: the reader may take as long as it likes.
            waited_s, received = waited_s + time.monotonic() - began, received + len(chunk)
            if waited_s >= self.timeout_s:
                if received < SLOWEST_BYTES_PER_S * waited_s:
                    reason = f"{host(self.url)} sent only {received} bytes in {waited_s:.0f} s"
                    raise Transient(reason, slow=True)
                waited_s, received = 0.0, 0
            yield chunk

    def close(self) -> None:
        """Keeps the connection for the next request when little is left of the body; else closes it."""
        left = self.raw.length_remaining
        if left is not None and left <= DRAINED:
            self.raw.drain_conn()
        self.raw.close()


def send(
    url: str,
    headers: Mapping[str, str],
    timeout_s: float,
    allowed: "Guard | None" = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> Response:
    """The answer to a request as far as its headers; redirects are the caller's. The caller closes it.

    ``allowed`` checks each address that the server's name stands for, one of which is then connected to; of a server
    behind a proxy, its name.

    Raises:
        Transient: the network failed.
        Refused: the address is not allowed.
        UsageError: the environment names proxies or certificates that cannot be used.
    """
    scheme, name, port = origin(url)
    proxy = proxy_for(scheme, name, port)
    try:
        found = [name] if proxy else _addresses(name, port, int(time.monotonic() / RESOLVED_S))
        addresses = tuple(found)
        for address in addresses:
            if allowed is not None:
                allowed(address)
        authority = f"[{name}]" if ":" in name else name if name.isascii() else name.encode("idna").decode()
        sent = {"Host": authority if port == DEFAULT_PORTS[scheme] else f"{authority}:{port}", **OWN_HEADERS, **headers}
        options: dict[str, Any] = {"ssl_context": tls(), "server_hostname": name} if scheme == "https" else {}
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if proxy and scheme == "http":
            target = f"http://{sent['Host']}{target}"
        timeout = urllib3.Timeout(connect=min(timeout_s, CONNECT_TIMEOUT_S), read=timeout_s)
        for address in addresses:
            pool = manager(proxy, os.getpid()).connection_from_host(address, port, scheme, options)
            try:
                raw = pool.urlopen(
                    method, target, body, sent, timeout=timeout, retries=False, redirect=False,
                    assert_same_host=False, preload_content=False, decode_content=False,
                )  # fmt: skip
                break
            except (NewConnectionError, ConnectTimeoutError):
                if address == addresses[-1]:
                    raise
        # The one that was connected to is tried first from now on: another would cost each request its time.
        found[:] = sorted(found, key=lambda one: one != address)
    except (HTTPError, HTTPException, OSError, ValueError) as error:
        raise translate_error(error, url, timeout_s) from error
    assert isinstance(raw, urllib3.HTTPResponse)
    return Response(raw, url, "" if proxy else address, timeout_s, raw.status, raw.headers)


@functools.lru_cache(1024)
def _addresses(name: str, port: int, _: int) -> list[str]:
    return list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)))


@functools.cache
def manager(proxy: str, _process: int) -> urllib3.PoolManager:
    """The connections of a process, direct ones or those through a proxy. A fork must not speak on its parent's."""
    if not proxy:
        return urllib3.PoolManager(MOST_IDLE, maxsize=MOST_IDLE)
    parts = urlsplit(proxy)
    login = {}
    if parts.username is not None:
        login = make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
        for secret in (unquote(parts.password or ""), *login.values()):
            remember(secret.removeprefix("Basic "))
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    context = tls() if parts.scheme == "https" else None
    return urllib3.ProxyManager(address, MOST_IDLE, proxy_headers=login, proxy_ssl_context=context, maxsize=MOST_IDLE)


@functools.lru_cache(1024)
def proxy_for(scheme: str, name: str, port: int) -> str:
    """The proxy that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` demand for a server, "" for none.

    Raises:
        UsageError: what the environment names cannot be used.
    """
    found = getproxies()
    url = found.get(scheme) or found.get("all") or ""
    if not url or proxy_bypass(f"{name}:{port}"):
        return ""
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        hint = "check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY: write a proxy as http://HOST:PORT"
        raise UsageError("the proxy in the environment cannot be used", hint=hint)
    return url


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
        hint = "check SSL_CERT_FILE and SSL_CERT_DIR"
        raise UsageError("the certificates in the environment cannot be used", hint=hint) from error
    if file or folder or (sys.platform == "linux" and context.cert_store_stats()["x509_ca"]):
        return context
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def translate_error(error: Exception, url: str, timeout_s: float) -> Transient:
    """Why an exchange with a server failed, in our own words: the library's may hold headers, a password or a link."""
    server, causes = host(url), list(_causes(error))
    cause, final = causes[-1], False
    hint = f"try again later; if it persists, check {ADDRESS}, and whether a proxy is in between"

    def is_one(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in causes)

    if isinstance(cause, ssl.SSLCertVerificationError):
        reason, final = f"the certificate of {server} is not trusted: {printable(str(cause))}", True
        hint = "set SSL_CERT_FILE to the certificates to trust"
    elif is_one(ProxyError) or "Tunnel connection failed" in str(error):
        reason, hint = f"the proxy did not forward the request to {server}", "check HTTPS_PROXY and NO_PROXY"
    elif is_one(NewConnectionError, socket.gaierror, UnicodeError):
        reason, final = f"no connection to {server}: {printable(str(cause))}", is_unknown_host(cause)
        hint = f"check {ADDRESS}, the network and HTTPS_PROXY"
    elif is_one(ConnectTimeoutError):
        reason = f"{server} did not accept a connection in {min(timeout_s, CONNECT_TIMEOUT_S):g} s"
    elif is_one(TimeoutError, urllib3.exceptions.TimeoutError):
        reason = f"{server} sent no data for {timeout_s:g} s"
    elif is_one(IncompleteRead):
        reason = f"the connection to {server} was cut: the body ended early"
    elif is_one(OSError, urllib3.exceptions.SSLError):
        reason = f"the connection to {server} was cut"
    elif is_one(HTTPException, urllib3.exceptions.InvalidHeader):
        reason = f"the connection to {server} was cut: the response is not HTTP/1.1"
    else:
        reason, final = f"communication with {server} failed ({type(error).__name__})", True
    return Transient(reason, hint=hint, final=final)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was made of; the last one is where it began."""
    found: BaseException | None = error
    while found is not None:
        yield found
        inside = (one for one in found.args if isinstance(one, BaseException))
        found = next(inside, None) or found.__cause__ or found.__context__
