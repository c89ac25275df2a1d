"""HTTP requests over urllib3: addresses are checked before they are connected to; redirects and retries are left out.

The environment's proxies and certificates are used. It imports urllib3, so it is imported with the first request.
"""

import functools
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ProtocolError
from urllib3.util import make_headers

from lora_cli.redaction import remember
from lora_cli.refs.web_address import DEFAULT_PORTS, host, origin
from lora_cli.sources import CONNECT_TIMEOUT_S, Transient, is_unknown_host
from lora_cli.version import __version__

CHUNK, DRAINED, CONNECTIONS = 256 * 1024, 16 * 1024, 64
RESOLVED_S = 30.0  # so long the addresses of a name are used before it is resolved again
OWN_HEADERS = {"User-Agent": f"lora-cli/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
FAILURES = (HTTPError, HTTPException, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of ``url``, from the address ``peer`` ("": through a proxy), whose body is still to be read."""

    raw: urllib3.HTTPResponse = field(repr=False)
    url: str
    peer: str
    timeout_s: float
    status: int
    headers: Mapping[str, str]

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes. Raises ``Transient``: it is compressed, broke, or is silent for the timeout."""
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise Transient(f"{host(self.url)} sent a compressed body that was not requested", hint="check for a proxy")
        try:
            while chunk := self.raw.read1(CHUNK, decode_content=False):
                yield chunk
        except FAILURES as error:
            raise _translated(error, self.url, self.timeout_s) from error

    def close(self) -> None:
        """Keeps the connection for the next request when little is left of the body; else closes it."""
        if self.raw.length_remaining is not None and self.raw.length_remaining <= DRAINED:
            self.raw.drain_conn()
        self.raw.close()


def send(
    url: str, headers: Mapping[str, str], timeout_s: float, allowed: Callable[[str], None], body: bytes | None = None
) -> Response:
    """The answer to a GET, or a POST of ``body``, as far as its headers; redirects are the caller's, who closes it.

    ``allowed`` checks each address that the server's name stands for, one of which is then connected to; of a server
    behind a proxy, its name. Raises ``Transient`` (the network failed), or what ``allowed`` raises.
    """
    scheme, name, port = origin(url)
    authority, parts = f"[{name}]" if ":" in name else name, urlsplit(url)
    place = authority if port == DEFAULT_PORTS[scheme] else f"{authority}:{port}"
    timeout = urllib3.Timeout(connect=min(timeout_s, CONNECT_TIMEOUT_S), read=timeout_s)
    how: dict[str, Any] = {"body": body, "headers": {"Host": place, **OWN_HEADERS, **headers}, "timeout": timeout}
    how |= dict.fromkeys(("retries", "redirect", "assert_same_host", "preload_content", "decode_content"), False)
    try:
        proxy = proxy_for(scheme, name, port)
        addresses = [name] if proxy else _addresses(name, port, int(time.monotonic() / RESOLVED_S))
        for address in addresses:
            allowed(address)
        options = {"ssl_context": tls(), "server_hostname": name} if scheme == "https" else {}
        target = f"http://{place}" if proxy and scheme == "http" else ""
        target += (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        for address in addresses:
            pool = manager(proxy, os.getpid()).connection_from_host(address, port, scheme, options)
            try:
                raw = pool.urlopen("GET" if body is None else "POST", target, **how)
                break
            except ConnectTimeoutError:  # or refused, which is one of these
                if address == addresses[-1]:
                    raise
    except FAILURES as error:
        raise _translated(error, url, timeout_s) from error
    assert isinstance(raw, urllib3.HTTPResponse)
    return Response(raw, url, "" if proxy else address, timeout_s, raw.status, raw.headers)


@functools.lru_cache(1024)
def _addresses(name: str, port: int, _: int) -> list[str]:
    return list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)))


@functools.cache
def manager(proxy: str, _process: int) -> urllib3.PoolManager:
    """The connections of a process, direct ones or those through a proxy. A fork must not speak on its parent's."""
    if not proxy:
        return urllib3.PoolManager(CONNECTIONS, maxsize=CONNECTIONS)
    parts, login = urlsplit(proxy), {}
    if parts.username is not None:
        login = make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
        for secret in (unquote(parts.password or ""), login["proxy-authorization"].removeprefix("Basic ")):
            remember(secret)
    address, context = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", tls() if parts.scheme == "https" else None
    return urllib3.ProxyManager(
        address, CONNECTIONS, proxy_headers=login, proxy_ssl_context=context, maxsize=CONNECTIONS
    )


@functools.lru_cache(1024)
def proxy_for(scheme: str, name: str, port: int) -> str:
    """The proxy that ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` demand, "" for none."""
    found = getproxies()
    url = found.get(scheme) or found.get("all") or ""
    if not url or proxy_bypass(f"{name}:{port}"):
        return ""
    return url if "://" in url else f"http://{url}"


@functools.cache
def tls() -> ssl.SSLContext:
    """Which certificates are trusted: those of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, else those of this system.

    truststore knows where these are, and does one handshake at a time: it is for where OpenSSL does not find them.
    """
    context, chosen = ssl.create_default_context(), os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    if chosen or (sys.platform == "linux" and context.cert_store_stats()["x509_ca"]):
        return context  # OpenSSL reads the two variables itself
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _translated(error: Exception, url: str, timeout_s: float) -> Transient:
    """Why an exchange with a server failed, in our own words: the library's may hold headers, a password or a link."""
    cause: BaseException = error
    while inner := next((one for one in (*cause.args, cause.__cause__) if isinstance(one, BaseException)), None):
        cause = inner
    server, text = host(url), (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "set SSL_CERT_FILE to the certificates to trust"
        return Transient(f"the certificate of {server} is not trusted: {text}", hint=hint, final=True)
    reason = f"no connection to {server}: {text}"
    if isinstance(cause, TimeoutError) and not isinstance(error, ConnectTimeoutError):
        reason = f"{server} sent no data for {timeout_s:g} s"
    elif isinstance(error, ProtocolError):
        reason = f"the connection to {server} was cut: {text}"
    hint = "check the address (HF_ENDPOINT for the Hub), the network, HTTPS_PROXY and NO_PROXY, or try again later"
    return Transient(reason, hint=hint, final=is_unknown_host(cause) or isinstance(cause, ValueError))
