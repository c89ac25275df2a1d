"""The one HTTP client: pooled, bounded in time and bytes, with retries, and strict about where tokens are sent."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from lora_cli.errors import Corrupt, Refused, Unreachable
from lora_cli.refs.web_address import DEFAULT_PORTS, host, is_loopback, origin
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges, Transient, from_status

if TYPE_CHECKING:
    from lora_cli.sources.transport import Response

ANSWER_CAP = 16 << 20  # bytes of an answer that is not the file
FAR = 1 << 20  # so many bytes are not read in vain to come to a range of a server that knows none
LINK_LIFETIME_S, MAX_REDIRECTS = 300.0, 5
AGAIN = "it changed at the source: run the command again"
_CHECK = "check the address (HF_ENDPOINT for the Hub)"

Headers = Mapping[str, str]
Check = Callable[[Headers], None]
NO_HEADERS: Headers = {}


class StatusError(Exception):
    """An answer of 300 or more, from the address ``peer``, that another try would not change."""

    def __init__(self, status: int, url: str, headers: Headers, peer: str = "") -> None:
        super().__init__(f"{host(url)} answered {status}")
        self.status, self.url, self.headers, self.peer = status, url, headers, peer


class TooLarge(Refused):
    """An answer that is not a file and has more bytes than any that is meant to be read."""


@dataclass(frozen=True, slots=True)
class Http:
    """The requests to one endpoint: token, timeout.

    ``token`` is sent to the scheme, host and port of ``endpoint`` and nowhere else, as a bearer token or as ``basic``
    credentials. ``private`` lets redirects into private networks. ``links`` remembers for minutes where the endpoint
    redirected to (and which address did), so that the ranges of one file ask it once.
    """

    endpoint: str
    timeout_s: float
    token: str = field(default="", repr=False)
    private: bool = False
    links: dict[str, tuple[str, str, float]] = field(default_factory=dict, repr=False, compare=False)
    basic: bool = False

    @classmethod
    def of(cls, settings: Settings, endpoint: str, token: str = "") -> "Http":
        """The requests to ``endpoint`` within the limits of the settings and their policies."""
        return cls(endpoint, settings.timeout_s, token, settings.allow_private_redirects)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``stop`` (None: to the end) of a file of ``size`` bytes (None: unknown)."""

    start: int
    stop: int | None
    size: int | None


def whole(chunks: Iterable[bytes], what: str, timeout_s: float) -> bytes:
    """An answer that is not the file: at most 16 MiB, else ``TooLarge``, within ``timeout_s``, else ``Transient``."""
    deadline, data = time.monotonic() + timeout_s, bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > ANSWER_CAP:
            raise TooLarge(f"{what}: the response is larger than {ANSWER_CAP} bytes", hint="use a subfolder of it")
        if time.monotonic() > deadline:
            raise Transient(f"the response is not complete after {timeout_s:g} s")
    return bytes(data)


def get_json(http: Http, url: str, what: str) -> tuple[Any, Headers]:
    """The JSON (else ``Transient``) at ``url``, and the headers; raises as ``open_response`` and ``whole``."""
    with open_response(http, url, {}, what) as response:
        data = whole(response.chunks(), what, http.timeout_s)
    try:
        return json.loads(data), response.headers
    except (ValueError, RecursionError) as error:
        hint = "check the address, and whether a proxy or a login page responds instead"
        raise Transient("the response is not JSON", hint=hint) from error


def next_query(headers: Headers) -> str:
    """The query of the next page, or nothing. The link's host and path are not used: a mirror may send its origin's."""
    links = re.findall("<([^<>]*)>([^<]*)", headers.get("Link", ""))
    queries = (urlsplit(url).query for url, rest in links if re.search(r"\brel\s*=[^;,]*\bnext\b", rest, re.IGNORECASE))
    return next(queries, "")


def get_bytes(
    http: Http, url: str, piece: Piece, what: str, conditions: Headers = NO_HEADERS, check: Check = lambda _: None
) -> Iterator[bytes]:
    """The bytes of ``piece``, in one attempt. ``conditions`` are sent with each request (``If-Match``).

    ``check`` sees the headers of the answer whose body is read, and raises when they belong to another version.

    Raises as ``open_response``, and:
        Corrupt: the file is not as large as ``piece.size`` says, or the server sends another range than was asked for.
        NoRanges: it sends everything, and over 1 MiB of that comes before a piece that ends.
    """
    last = "" if piece.stop is None else piece.stop - 1
    asked = {} if piece.start == 0 and piece.stop is None else {"Range": f"bytes={piece.start}-{last}"}
    with open_response(http, url, {**conditions, **asked}, what) as response:
        check(response.headers)
        at, size = 0, response.headers.get("Content-Length", "")
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
            if found is None or found[1] != str(piece.start):
                raise Corrupt(f"{what}: bytes from {piece.start} were requested, but the server sent others")
            at, size = piece.start, found[2]
        elif piece.start >= FAR and piece.stop is not None:
            raise NoRanges(f"{what}: {host(url)} only sends whole files")
        if piece.size is not None and size.isdecimal() and size != str(piece.size):
            raise Corrupt(f"{what}: it has {size} bytes now, but {piece.size} were listed", hint=AGAIN)
        # Of a whole file that was sent instead of a range, what follows is not waited for.
        stop = piece.stop if response.status == 200 else None
        for chunk in response.chunks():
            kept = chunk[max(0, piece.start - at) : stop and stop - at]
            at += len(chunk)
            if kept:
                yield kept
            if stop is not None and at >= stop:
                return


@contextmanager
def open_response(http: Http, url: str, headers: Headers, what: str) -> Iterator["Response"]:
    """An answer of 200 or 206 whose body is still to be read, after at most five redirects.

    Raises:
        StatusError: an answer that another try would not change.
        Transient: network or server.
        Refused: a redirect gives up encryption, or leads into a private network.
    """
    from lora_cli.sources.transport import send

    target, sender, until = http.links.get(url, ("", "", 0.0))
    remembered = time.monotonic() < until
    target, before = (target, url) if remembered else (url, "")
    for _ in range(MAX_REDIRECTS + 1):
        is_home, sent = origin(target) == origin(http.endpoint), headers
        if http.token and is_home:
            sent = {**headers, "Authorization": f"{'Basic' if http.basic else 'Bearer'} {http.token}"}
        # The first address may be nearby, but not link-local.
        way = f"{host(before)} redirects to {host(target)}" if before else f"it leads to {host(url)}"
        allowed = guard(http.private or not before, sender, f"{what}: {way}")
        try:
            response = send(target, sent, http.timeout_s, allowed)
        except Transient:
            http.links.pop(url, None)  # it may be gone for good: the next try asks the endpoint again
            raise
        with closing(response):
            status, location = response.status, response.headers.get("Location", "")
            if status in (200, 206):
                if not is_home and not remembered:
                    http.links[url] = (target, sender, time.monotonic() + LINK_LIFETIME_S)
                yield response
                return
        if remembered:
            # A link that was handed out may expire at any time: the endpoint gives a fresh one.
            http.links.pop(url, None)
            target, before, remembered = url, "", False
        elif status in (301, 302, 303, 307, 308) and location:
            sender, before, target = response.peer, target, redirect_target(target, location, what)
        # A storage host says 403 to a link that has expired; the endpoint will hand out another one.
        elif status < 300 or status in (408, 429) or status >= 500 or (status == 403 and not is_home):
            raise from_status(host(target), status, response.headers)
        else:
            raise StatusError(status, target, response.headers, response.peer)
    raise Unreachable(f"{what}: {host(url)} redirects more than {MAX_REDIRECTS} times", hint=_CHECK)


def redirect_target(url: str, location: str, what: str) -> str:
    """The target of a redirect from ``url``; ``what`` begins the message of an error.

    Raises ``Unreachable``: it is no web address, or carries a user or password; ``Refused``: from https to http.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        usable = parts.scheme in DEFAULT_PORTS and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Unreachable(f"{what}: {host(url)} redirects to an invalid web address", hint=_CHECK)
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        reason = f"{what}: {host(url)} redirects from https to http, at {host(target)}, which is not followed"
        raise Refused(reason, hint="use the address of an endpoint that stays on https")
    return target


NAT64 = IPv6Network("64:ff9b::/96")
METADATA = {*map(ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"))}
"""Where Alibaba, Azure, Oracle, AWS and Google answer their own machines, beside 169.254.169.254 (link-local)."""


def _ip(address: str) -> IPv4Address | IPv6Address | None:
    """The address, out of IPv6 if it is an IPv4 address wrapped in that; None for a name, which a proxy resolves."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        return IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour or ip
    return ip


def is_public(address: str) -> bool:
    """Whether ``address`` is neither of a private network nor this machine's own."""
    ip = _ip(address)
    return not is_loopback(address) if ip is None else ip.is_global and not ip.is_reserved


def guard(private: bool, sender: str, prefix: str) -> Callable[[str], None]:
    """A guard that checks each address of a redirect before anything is sent there; it raises ``Refused``.

    A server may send us where we can reach and it cannot: to this machine, its network, or the place where clouds keep
    credentials. What counts is the address that is connected to, not the name, which can be given another at any time.
    ``sender`` is the address that sent the redirect ("": unknown: public), ``prefix`` begins the message of an error.
    ``private`` lets redirects into private networks, but to no link-local address.
    """

    def judge(address: str) -> None:
        ip, where = _ip(address), "" if address in prefix else f" at {address}"
        if ip is not None and (ip.is_link_local or ip in METADATA):
            reason = f"{prefix}{where}, a link-local address, or that of a cloud's credentials"
            raise Refused(reason, hint="no adapter files are served there; tell the owner of that server")
        if not (private or is_public(address)) and is_public(sender):
            hint = "the settings or LORA_CLI_ALLOW_PRIVATE_REDIRECTS=1 can allow it"
            raise Refused(f"{prefix}{where}, a private address (allow_private_redirects)", hint=hint)

    return judge
