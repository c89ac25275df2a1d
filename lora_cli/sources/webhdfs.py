"""WebHDFS as fsspec speaks it, with what every other source does: redirects are judged, and answers are bounded."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from fsspec.implementations.webhdfs import WebHDFS
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from lora_cli.errors import Refused
from lora_cli.settings import Settings
from lora_cli.sources.bounded_json import picked
from lora_cli.sources.http_transport import NoConnection, resolve
from lora_cli.sources.listed import MOST_ENTRIES
from lora_cli.sources.retries import CONNECT_TIMEOUT_S, Transient
from lora_cli.sources.ssrf_guard import bounds_of, check_host, guard
from lora_cli.sources.urls import following, host, origin

MOST_BYTES = 2 << 20
"""So many bytes has one answer: a listing of some 7000 files, or a mebibyte that was asked for."""

_PIECE = 64 * 1024
Connected = Callable[[tuple[str, int], str], None]
_REFUSAL_BYTES = 16 * 1024


class GuardedWebHDFS(WebHDFS):  # type: ignore[misc]
    """fsspec's file system over a session of ours. Of a listing only what is used of each entry is kept."""

    def __init__(self, *, settings: Settings, **options: Any) -> None:
        """``options`` are fsspec's own."""
        self._settings = settings
        super().__init__(**options)

    session: requests.Session

    def _connect(self) -> None:
        super()._connect()
        made, self.session = self.session, guarded_session(self.url, self._settings)
        self.session.cert, self.session.verify, self.session.auth = made.cert, made.verify, made.auth or _Nobody()

    def info(self, path: str) -> dict[str, Any]:
        """What one file or folder is."""
        body = self._call("GETFILESTATUS", path=path).content
        return picked([body], lambda answer: _entry(answer["FileStatus"], path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        """What is in one folder."""

        def entries(answer: Any) -> list[dict[str, Any]]:
            found = answer["FileStatuses"]["FileStatus"][: MOST_ENTRIES + 1]
            return [_entry(one, f"{path.rstrip('/')}/{one['pathSuffix']}") for one in found]

        return picked([self._call("LISTSTATUS", path=path).content], entries)

    def cat_file(self, path: str, start: int = 0, end: int = 0, **_: Any) -> bytes:
        """Bytes ``start`` to ``end`` of a file: fsspec would read some megabytes more."""
        answer = self._call("OPEN", path=path, offset=start, length=end - start, redirect=False)
        if location := answer.headers.get("Location"):
            answer = self.session.get(self._apply_proxy(location))
            answer.raise_for_status()
        return bytes(answer.content)


def _entry(status: Any, name: str) -> dict[str, Any]:
    """What is used of an entry, under the names that fsspec has for it."""
    kind, changed = str(status["type"]).lower(), status["modificationTime"]
    return {"name": name, "type": kind, "size": status["length"], "modificationTime": changed}


class _Nobody(AuthBase):
    """Says who asks to nobody: without it, requests would look into ``~/.netrc``."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Session(requests.Session):
    """A session whose redirects say nobody's name to another server."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Nothing is added; what another server must not have, the adapter takes away."""


def guarded_session(url: str, settings: Settings) -> requests.Session:
    """A session for the server at ``url``."""
    session = _Session()
    session.headers["Accept-Encoding"] = "identity"
    adapter = _Adapter(_Way(url, settings))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


@dataclass(frozen=True, slots=True)
class _Way:
    """The server that was named, and the settings that say where it may lead."""

    url: str
    settings: Settings

    def is_home(self, url: str) -> bool:
        """Whether ``url`` is at the server itself."""
        return origin(url) == origin(self.url)

    def check(self, url: str, sender: str) -> Callable[[str], None]:
        """What judges the addresses of the server that it sends us to.

        Raises:
            Refused: its name is not allowed, or it gives up encryption.
            Unreachable: it is no web address.
        """
        said = f"{host(self.url)} redirects to {host(url)}"
        following(self.url, url, host(self.url))
        bounds = bounds_of(self.settings)
        check_host(bounds, urlsplit(url).hostname or "", said)
        return guard(bounds, sender, said)


class _Adapter(HTTPAdapter):
    """Sends requests: what goes to another server is judged, before a word is sent there, and says nobody's name."""

    def __init__(self, way: _Way) -> None:
        self._way = way
        self._sender = ""
        self._judges: dict[tuple[str, int], Callable[[str], None]] = {}
        self._classes = _pools(self._connected)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *given: Any, **options: Any) -> None:
        """As every adapter, with connections that say where they lead."""
        super().init_poolmanager(*given, **options)
        self.poolmanager.pool_classes_by_scheme = self._classes

    def send(self, request: requests.PreparedRequest, *given: Any, **options: Any) -> requests.Response:
        """The whole answer, which has at most ``MOST_BYTES``; one redirect leads elsewhere, and none on from there."""
        url, timeout_s = request.url or "", self._way.settings.timeout_s
        if not self._way.is_home(url):
            for name in ("Authorization", "Cookie"):
                request.headers.pop(name, None)
            name, port = _place(url)
            self._judges[name, port] = judge = self._way.check(url, self._sender)
            for address in [name] if select_proxy(url, options.get("proxies") or {}) else _addresses(name, port):
                judge(address)
        options |= {"stream": True, "timeout": (min(timeout_s, CONNECT_TIMEOUT_S), timeout_s)}
        response = super().send(request, *given, **options)
        if response.is_redirect and not self._way.is_home(url):
            response.close()
            raise Refused(f"{host(url)} redirects once more", hint="name the server that has the files")
        return _whole(response, timeout_s)

    def _connected(self, place: tuple[str, int], address: str) -> None:
        if judge := self._judges.get(place):
            judge(address)
        else:
            self._sender = address


def _addresses(name: str, port: int) -> tuple[str, ...]:
    """Where a connection may go; none when the name is not known, as the connection itself will find."""
    with suppress(NoConnection):
        return resolve(name, port)
    return ()


def _place(url: str) -> tuple[str, int]:
    """Host and port of an address."""
    return origin(url)[1:]


def _pools(connected: Connected) -> dict[str, type[HTTPConnectionPool]]:
    """Pools of connections that tell the host and port that they were made for, and the address that they lead to."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> Any:
            return _judged(super()._new_conn(), self, connected)

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> Any:
            return _judged(super()._new_conn(), self, connected)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def _judged(sock: Any, connection: HTTPConnection, connected: Connected) -> Any:
    """The socket of a new connection, once nobody minds where it leads."""
    try:
        connected((connection.host.strip("[]").lower(), connection.port or 0), str(sock.getpeername()[0]))
    except BaseException:
        sock.close()
        raise
    return sock


def _whole(response: requests.Response, timeout_s: float) -> requests.Response:
    """The answer with its body read, within the bounds."""
    server = host(response.url)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Transient(f"{server} sent a compressed body that was not asked for", hint="check for a proxy between")
    response._content = b"".join(_bounded(response, server, timeout_s))
    return response


def _bounded(response: requests.Response, server: str, timeout_s: float) -> Iterator[bytes]:
    left, until = MOST_BYTES if response.ok else _REFUSAL_BYTES, time.monotonic() + timeout_s
    for piece in response.iter_content(_PIECE):
        left -= len(piece)
        if left < 0 and not response.ok:
            return
        if left < 0:
            raise Refused(f"{server} sent over {MOST_BYTES} bytes at once", hint="name the folder of one adapter")
        if time.monotonic() > until:
            raise Transient(f"{server} did not finish its answer in {timeout_s:g} s")
        yield piece
