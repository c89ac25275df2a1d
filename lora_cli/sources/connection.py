"""One request over the pool of connections, and what its failures mean."""

import random
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from lora_cli import __version__
from lora_cli.sources.urls import host

if TYPE_CHECKING:
    from lora_cli.sources.pool import NoConnection, Response
    from lora_cli.sources.private import Guard

CONNECT_TIMEOUT_S = 10.0
SLOWEST_BYTES_PER_S = 1024
LONGEST_WAIT_S = 330.0
LONGEST_BACKOFF_S = 8.0
CHUNK = 256 * 1024
ADDRESS = "the address (HF_ENDPOINT for the Hub, AWS_ENDPOINT_URL for S3)"
WHOLE = 1 << 20
"""A body of at most so many bytes is asked for as one piece: fewer turns. Of many larger ones each would hold much."""

OWN_HEADERS = {"User-Agent": f"lora-cli/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}


class StatusError(Exception):
    """An answer of 300 or more that another try would not change.

    ``code`` and ``message`` are what the server says in ``X-Error-Code`` and ``X-Error-Message``, made printable.
    """

    def __init__(self, status: int, url: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{host(url)} answered {status}")
        self.status, self.url, self.headers = status, url, headers
        self.code = printable(headers.get("X-Error-Code", ""))
        self.message = printable(headers.get("X-Error-Message", ""))


class Transient(Exception):
    """A failure that may be gone at the next try: ``wait_s`` is how long the server asks to wait (None: not said).

    ``final`` failures are of the network too, but no second try will mend them. ``slow`` ones brought bytes, and so few
    that this is no progress.
    """

    def __init__(
        self,
        reason: str,
        *,
        hint: str = "try again later",
        wait_s: float | None = None,
        final: bool = False,
        slow: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.hint, self.wait_s, self.final, self.slow = reason, hint, wait_s, final, slow


def from_status(server: str, status: int, headers: Mapping[str, str]) -> Transient:
    """What an answer of 408, 429 or 5xx of ``server`` means."""
    wait_s = asked_wait(headers) if status in (408, 429, 503) else None
    if status != 429:
        return Transient(f"{server} answered {status}", wait_s=wait_s)
    asks = f" and asks to wait {wait_s:.0f} s" if wait_s else ""
    hint = "wait, or lower --jobs; a server allows more to those who send a token (HF_TOKEN for the Hub)"
    return Transient(f"{server} limits the rate of requests (429){asks}", hint=hint, wait_s=wait_s)


def printable(text: str) -> str:
    """At most 200 characters of what a server wrote, without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text[:200]).strip()


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: the longer of ``RateLimit: …;t=`` and ``Retry-After``; None if neither.

    ``RateLimit`` is draft-ietf-httpapi-ratelimit-headers-09; ``Retry-After`` holds seconds or an HTTP date (RFC 9110).
    """
    asked = []
    if found := re.search(r";\s*t\s*=\s*(\d{1,9})\b", headers.get("RateLimit", "")[:1000], re.ASCII):
        asked.append(float(found[1]))
    after = headers.get("Retry-After", "").strip()[:100]
    if re.fullmatch(r"\d{1,9}", after, re.ASCII):
        asked.append(float(after))
    elif after:
        asked.extend(_until(after))
    return max(asked, default=None)


def _until(date: str) -> list[float]:
    from email.utils import parsedate_to_datetime

    try:
        return [max(0.0, parsedate_to_datetime(date).timestamp() - time.time())]
    except (ValueError, OverflowError):
        return []


def pause_before(failures: int, asked_s: float | None) -> float | None:
    """Seconds to wait after so many failures in a row; None when the server asks for longer than is sensible.

    Without a wish of the server: 0.5 s, doubled up to 8 s, halved by chance. With one: all of it and up to a tenth
    more, so that forty waiting processes do not come back in the same instant.
    """
    chance = random.random()  # noqa: S311 - spreads load, keeps no secret
    if asked_s is not None and asked_s > LONGEST_WAIT_S:
        return None
    if asked_s:
        return asked_s + chance * (0.2 + 0.1 * asked_s)
    return float(min(LONGEST_BACKOFF_S, 0.5 * 2 ** min(failures - 1, 10)) * (0.5 + 0.5 * chance))


def send(
    url: str, headers: Mapping[str, str], timeout_s: float, allowed: "Guard | None" = None, *, method: str = "GET"
) -> "Response":
    """The answer to a GET (or a HEAD) as far as its headers; redirects are the caller's. The caller closes it.

    ``allowed`` judges the address that it would go to.

    Raises:
        Transient: the network failed.
        Refused: the address is not allowed.
        UsageError: the environment names proxies or certificates that cannot be used.
    """
    from lora_cli.sources import pool

    try:
        connect_s = min(timeout_s, CONNECT_TIMEOUT_S)
        return pool.get(url, {**OWN_HEADERS, **headers}, connect_s, timeout_s, allowed, method=method)
    except pool.NoConnection as error:
        raise _no_connection(error, url, timeout_s) from error
    except (OSError, ValueError) as error:
        raise _meaning(error, url, timeout_s) from error


def chunks(response: "Response", timeout_s: float) -> Iterator[bytes]:
    """The body as it comes, at most 1 MiB at a time.

    Raises:
        Transient: it broke, is silent for ``timeout_s``, or trickles at less than 1 KiB/s over that time.
    """
    server = host(response.url)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Transient(f"{server} sent a compressed body that was not asked for", hint="check for a proxy between")
    return paced(response, timeout_s)


def paced(response: "Response", timeout_s: float) -> Iterator[bytes]:
    """As ``chunks``, of a body that is what it is, however it is encoded."""
    most = WHOLE if response.left is not None and response.left <= WHOLE else CHUNK
    try:
        yield from steady(iter(partial(response.read, most), b""), host(response.url), timeout_s)
    except (OSError, ValueError) as error:
        raise _meaning(error, response.url, timeout_s) from error


def steady(body: Iterator[bytes], server: str, timeout_s: float) -> Iterator[bytes]:
    """``body`` as it comes from ``server``, as long as it does not trickle.

    Raises:
        Transient: it brought less than 1 KiB/s over ``timeout_s``.
    """
    waited_s, received = 0.0, 0
    while True:
        began = time.monotonic()
        chunk = next(body, None)
        if chunk is None:
            return
        # Only time spent waiting for the server counts: the reader may take as long as it likes.
        waited_s, received = waited_s + time.monotonic() - began, received + len(chunk)
        if waited_s >= timeout_s:
            if received < SLOWEST_BYTES_PER_S * waited_s:
                raise Transient(f"{server} sent only {received} bytes in {waited_s:.0f} s", slow=True)
            waited_s, received = 0.0, 0
        yield chunk


def _no_connection(error: "NoConnection", url: str, timeout_s: float) -> Transient:
    """Why there was no connection, in our words: the library's own may hold a proxy's password."""
    from ssl import SSLCertVerificationError

    server, told = host(url), printable(str(error.__cause__))
    if isinstance(error.__cause__, SSLCertVerificationError):
        hint = "name the certificates to trust with SSL_CERT_FILE"
        return Transient(f"the certificate of {server} is not trusted: {told}", hint=hint, final=True)
    if isinstance(error.__cause__, TimeoutError):
        return Transient(f"{server} did not accept a connection in {min(timeout_s, CONNECT_TIMEOUT_S):g} s")
    if error.by_proxy:
        hint = "check HTTPS_PROXY and NO_PROXY"
        return Transient(f"the proxy did not pass the request on to {server}", hint=hint)
    return Transient(
        f"no connection to {server}: {told}",
        hint=f"check {ADDRESS}, the network and HTTPS_PROXY",
    )


def _meaning(error: Exception, url: str, timeout_s: float) -> Transient:
    """The failure in our words: the library's own may hold headers or a signed link."""
    from lora_cli.sources.answers import Malformed

    server = host(url)
    if isinstance(error, TimeoutError):
        return Transient(f"{server} was silent for {timeout_s:g} s")
    if isinstance(error, Malformed):
        hint = f"try again later; if it stays, check {ADDRESS}, and for a proxy between"
        return Transient(f"the connection to {server} was cut: {error}", hint=hint)
    if isinstance(error, OSError):
        return Transient(f"the connection to {server} was cut")
    reason = f"the exchange with {server} failed ({type(error).__name__})"
    return Transient(reason, hint=f"check {ADDRESS}", final=True)
