"""The one HTTP client: pooled, bounded in time and bytes, with retries, and strict about where tokens are sent."""

import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from lora_cli.core.web_address import DEFAULT_PORTS
from lora_cli.errors import Corrupt, Refused, Unreachable, UsageError
from lora_cli.sources import NoRanges
from lora_cli.sources.retries import Transient, from_status, printable
from lora_cli.sources.ssrf_guard import Guard, guard

if TYPE_CHECKING:
    from lora_cli.sources.transport import Response

ANSWER_CAP = 16 << 20
"""How many bytes an answer that is not the file has at most."""

LONGEST_LINK = 8192
"""A signed link has some two thousand characters; many are remembered."""

LINK_LIFETIME_S = 300.0
MAX_REDIRECTS, LINKS_CAP = 5, 4096
FAR = 1 << 20  # so many bytes are not read in vain to come to a range of a server that knows none
AGAIN = "it changed at the source: run the command again"

Headers = Mapping[str, str]
Check = Callable[[Headers], None]


@functools.lru_cache(1024)
def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: a token is only for one origin."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS.get(parts.scheme, 0)


@functools.lru_cache(1024)
def host(url: str) -> str:
    """The host, with its port if there is one, for messages. The rest of a URL may be a signature."""
    parts = urlsplit(url)
    return f"{parts.hostname or '?'}:{parts.port}" if parts.port else parts.hostname or "?"


def checked_endpoint(endpoint: str, variable: str) -> str:
    """An address that ``variable`` named, without a slash at its end. It is not repeated: it may hold a password.

    Raises:
        UsageError: it is not an address, or has a user, a query or a fragment in it.
    """
    try:
        usable = re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", endpoint) and urlsplit(endpoint).port != 0
    except ValueError:
        usable = False
    if not usable:
        hint = "write https://HOST[:PORT], without user, query or fragment"
        raise UsageError(f"{variable}: this is not the address of a server", hint=hint)
    return endpoint.rstrip("/")


class StatusError(Exception):
    """An answer of 300 or more that another try would not change.

    ``code`` and ``message`` are what the server says in ``X-Error-Code`` and ``X-Error-Message``, made printable;
    ``peer`` is the address that it came from.
    """

    def __init__(self, status: int, url: str, headers: Headers, peer: str = "") -> None:
        super().__init__(f"{host(url)} answered {status}")
        self.status, self.url, self.headers, self.peer = status, url, headers, peer
        self.code = printable(headers.get("X-Error-Code", ""))
        self.message = printable(headers.get("X-Error-Message", ""))


class TooLarge(Refused):
    """An answer that is not a file and has more bytes than any that is meant to be read."""


@dataclass(frozen=True, slots=True)
class Http:
    """The requests to one endpoint: token, timeout.

    ``token`` is sent to the scheme, host and port of ``endpoint`` and nowhere else, as a bearer token or as ``basic``
    credentials. No answer may be silent for longer than ``timeout_s``. ``links`` remembers for minutes where the
    endpoint redirected to (and which address did), so that the ranges of one file ask it once. ``private`` lets
    redirects into private networks. ``named`` is an endpoint that a reference names, and no setting: it may be nearby,
    but not link-local.
    """

    endpoint: str
    timeout_s: float
    token: str = field(default="", repr=False)
    private: bool = False
    links: dict[str, tuple[str, float, str]] = field(default_factory=dict, repr=False, compare=False)
    basic: bool = False
    named: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``stop`` (None: to the end) of a file of ``size`` bytes (None: unknown)."""

    start: int
    stop: int | None
    size: int | None

    @property
    def end(self) -> int | None:
        """Its end; None if it is unknown."""
        return min((one for one in (self.stop, self.size) if one is not None), default=None)


def get_headers(http: Http, url: str, what: str, turn: AbstractContextManager[object]) -> tuple[int, Headers]:
    """Status (200 or 206) and headers of the answer to a GET for the first byte of ``url``; raises as ``get_json``.

    It is no HEAD: some servers know none, and links that are signed for GET refuse it. The body is not waited for.
    ``turn`` is held meanwhile.
    """
    with turn, closing(open_response(http, url, {"Range": "bytes=0-0"}, what)) as response:
        return response.status, response.headers


def get_json(http: Http, url: str, what: str) -> tuple[Any, str, Headers]:
    """The JSON at ``url``, of at most 16 MiB and within ``timeout_s``, the URL that sent it at last, and its headers.

    Raises:
        StatusError: an answer that another try would not change.
        Transient: network, server, or something that is not JSON.
        TooLarge: the answer is too large.
        Refused: a redirect gives up encryption, or leads into a private network.
    """
    deadline, data = time.monotonic() + http.timeout_s, bytearray()
    with closing(open_response(http, url, {}, what)) as response:
        for chunk in response.chunks():
            data += chunk
            if len(data) > ANSWER_CAP:
                reason = f"{what}: the response is larger than {ANSWER_CAP} bytes"
                raise TooLarge(reason, hint="use a subfolder of it")
            if time.monotonic() > deadline:
                raise Transient(f"{host(response.url)} did not finish its response in {http.timeout_s:g} s")
    try:
        return json.loads(data), response.url, response.headers
    except (ValueError, RecursionError) as error:
        hint = "check the address, and whether a proxy or a login page responds instead"
        raise Transient("the response is not JSON", hint=hint) from error


def next_query(headers: Headers) -> str:
    """The query of the next page, or nothing. The link's host and path are not used: a mirror may send its origin's."""
    found = re.search(r"<([^<>]{1,8192})>\s*;[^,<]*\brel=\"?next\"?", headers.get("Link", "")[:16_384])
    query = urlsplit(found[1]).query if found else ""
    return query if re.fullmatch(r"[!-~]*", query) else ""


def get_bytes(
    http: Http,
    url: str,
    piece: Piece,
    what: str,
    check: Check | None = None,
    *,
    conditions: Headers | None = None,
    accept: Check | None = None,
) -> Iterator[bytes]:
    """The bytes of ``piece``, in one attempt.

    A server that sends everything is read from the right offset, when that is near. ``check`` sees the headers of each
    answer of the endpoint itself, ``accept`` of each whose body is read, of any server; both raise when they belong to
    another version. ``conditions`` are sent with each request (``If-Match``).

    Raises:
        StatusError: an answer that another try would not change.
        Corrupt: the file is not as large as ``piece.size`` says, or the server sends another range than was asked for.
        NoRanges: it sends everything, and over 1 MiB of that comes before a piece that ends.
        Transient: network or server.
    """
    last = "" if piece.stop is None else piece.stop - 1
    asked = {} if piece.start == 0 and piece.stop is None else {"Range": f"bytes={piece.start}-{last}"}
    with closing(open_response(http, url, {**(conditions or {}), **asked}, what, check)) as response:
        if accept is not None:
            accept(response.headers)
        if response.status == 200 and piece.start >= FAR and piece.stop is not None:
            raise NoRanges(f"{what}: {host(url)} only sends whole files")
        yield from _wanted(response, piece, what)


def _wanted(response: "Response", piece: Piece, what: str) -> Iterator[bytes]:
    """The piece of the body, whether the server honoured the range or not."""
    body = response.chunks()
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        skip, total = piece.start, int(length) if length.isdecimal() and len(length) < 20 else None
    else:
        shown = response.headers.get("Content-Range", "").strip()
        found = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)", shown, re.ASCII)
        if found is None or int(found[1]) != piece.start:
            raise Corrupt(f"{what}: bytes from {piece.start} were requested, but the server sent others")
        skip, total = 0, None if found[2] == "*" else int(found[2])
    if piece.size is not None and total not in (None, piece.size):
        raise Corrupt(f"{what}: it has {total} bytes now, but {piece.size} were listed", hint=AGAIN)
    # Of a whole file that was sent instead of a range, what follows the piece is not waited for.
    exact = response.status != 200 or piece.end in (total, piece.size)
    left = None if piece.end is None else piece.end - piece.start
    for chunk in body:
        kept = chunk[skip:]
        skip = max(0, skip - len(chunk))
        if left is not None:
            if len(kept) > left and exact:
                raise Corrupt(f"{what}: the server sent more bytes than requested", hint=AGAIN)
            kept = kept[:left]
            left -= len(kept)
        if kept:
            yield kept
        if left == 0 and not exact:
            return


def open_response(http: Http, url: str, headers: Headers, what: str, check: Check | None = None) -> "Response":
    """An answer of 200 or 206 whose body is still to be read, after at most five redirects.

    ``check`` sees the headers of each answer of the endpoint itself, and raises when they are of another version.
    """
    known, until, sender = http.links.get(url, ("", 0.0, ""))
    if known and time.monotonic() < until:
        try:
            response = _ask(http, known, headers, _redirects(http, sender, url, known, what))
        except Transient:
            http.links.pop(url, None)  # it may be gone for good: the next try asks the endpoint again
            raise
        if response.status in (200, 206):
            return response
        # A link that was handed out may expire at any time: the endpoint gives a fresh one.
        response.close()
        http.links.pop(url, None)
    target, allowed = url, guard(True, "127.0.0.1", f"{what}: it leads to {host(url)}") if http.named else None
    for _ in range(MAX_REDIRECTS + 1):
        response = _ask(http, target, headers, allowed)
        try:
            location = _redirect_of(http, target, response, check)
        except Exception:
            response.close()
            raise
        if not location:
            if origin(target) != origin(http.endpoint):
                if len(http.links) >= LINKS_CAP:
                    http.links.clear()
                http.links[url] = (target, time.monotonic() + LINK_LIFETIME_S, sender)
            return response
        sender, before = response.peer, target
        response.close()
        target = redirect_target(before, location, what)
        allowed = _redirects(http, sender, before, target, what)
    reason = f"{what}: {host(url)} redirects more than {MAX_REDIRECTS} times"
    raise Unreachable(reason, hint="check the address (HF_ENDPOINT for the Hub)")


def _redirect_of(http: Http, url: str, response: "Response", check: Check | None) -> str:
    """The target of a redirect; "" for an answer with a body. Raises for any other answer."""
    if check is not None and origin(url) == origin(http.endpoint):
        check(response.headers)
    status = response.status
    if status in (200, 206):
        return ""
    if status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
        return response.headers["Location"]
    # A storage host says 403 to a link that has expired; the endpoint will hand out another one.
    stale = status == 403 and origin(url) != origin(http.endpoint)
    if stale or status in (408, 429) or status >= 500 or status < 300:
        raise from_status(host(url), status, response.headers)
    raise StatusError(status, url, response.headers, response.peer)


def redirect_target(url: str, location: str, what: str) -> str:
    """The target of a redirect from ``url``; ``what`` begins the message of an error.

    Raises:
        Unreachable: to something that is no web address, or that carries a user or password.
        Refused: from https to http.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        usable = parts.scheme in DEFAULT_PORTS and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        usable = False
    if not usable or " " in target or not target.isprintable() or len(target) > LONGEST_LINK:
        reason = f"{what}: {host(url)} redirects to an invalid web address"
        raise Unreachable(reason, hint="check the address (HF_ENDPOINT for the Hub)")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        reason = f"{what}: {host(url)} redirects from https to http, at {host(target)}, which is not followed"
        raise Refused(reason, hint="use the address of an endpoint that stays on https")
    return target


def _redirects(http: Http, sender: str, url: str, target: str, what: str) -> Guard:
    """Checks each address of ``target``, to which ``url`` at the address ``sender`` redirects."""
    return guard(http.private, sender, f"{what}: {host(url)} redirects to {host(target)}")


def _ask(http: Http, url: str, headers: Headers, allowed: Guard | None) -> "Response":
    """The answer to one request; the token is only for the origin of the endpoint."""
    from lora_cli.sources.transport import send

    if http.token and origin(url) == origin(http.endpoint):
        headers = {**headers, "Authorization": f"{'Basic' if http.basic else 'Bearer'} {http.token}"}
    return send(url, headers, http.timeout_s, allowed)
