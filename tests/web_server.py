"""A web server of files for tests, that can do as much or as little of HTTP as real ones do."""

import hashlib
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.answering import Listening, Reply, answering

LONG_AGO = 1_700_000_000


@dataclass
class Site:
    """The files by path, and how they are served; a test may change all of it while it runs.

    ``etag`` is ``strong``, ``weak`` or "" (none). ``changed`` is the time of change in seconds since 1970, None for no
    ``Last-Modified``. ``missing`` answers what is not there: status, type and body. ``statuses`` answers a path with a
    status. ``cuts`` are the numbers of bytes after which the next answers with a larger body break off. ``redirect`` is
    where another path goes. With ``token`` only its bearer is served. ``obeys`` says whether conditions are obeyed.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = "strong"
    changed: int | None = LONG_AGO
    ranges: bool = True
    obeys: bool = True
    length: bool = True
    missing: tuple[int, str, bytes] = (404, "text/html", b"<h1>Not Found</h1>")
    statuses: dict[str, int] = field(default_factory=dict)
    redirect: Callable[[str], str | None] = lambda _: None
    token: str = ""
    more: Callable[[bytes], Mapping[str, str]] = lambda _: {}
    cuts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """One request that came in."""

    method: str
    target: str
    headers: Mapping[str, str]


class WebServer:
    """A ``Site``, on loopback, while the context lasts; over TLS with a ``certificate``."""

    def __init__(self, site: Site, certificate: Path | None = None) -> None:
        self.site, self.asked, self.place = site, list[Asked](), ""
        self._certificate, self._running = certificate, answering(self._reply, prepare=self._over_tls)

    def __enter__(self) -> Self:
        port = self._running.__enter__().rpartition(":")[2]
        self.place = f"{'localhost' if self._certificate else '127.0.0.1'}:{port}"
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.__exit__(None, None, None)

    def _over_tls(self, server: Listening) -> None:
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)

    def _reply(self, request: BaseHTTPRequestHandler) -> Reply:
        site, path = self.site, unquote(urlsplit(request.path).path).lstrip("/")
        self.asked.append(Asked(request.command, request.path, dict(request.headers)))
        if site.token and request.headers.get("Authorization") != f"Bearer {site.token}":
            return 401, b"", {"WWW-Authenticate": "Bearer"}
        if (target := site.redirect(request.path)) is not None:
            return 302, b"", {"Location": target}
        if path in site.statuses:
            return site.statuses[path], b"no", site.more(b"")
        if path not in site.files:
            status, kind, body = site.missing
            return status, body, {"Content-Type": kind}
        status, body, headers = self._file(request, site.files[path])
        length = str(len(body)) if site.length or status != 200 else ""
        if site.cuts and site.cuts[0] < len(body):
            body = body[: site.cuts.pop(0)]
        return status, body, {**headers, "Content-Length": length}

    def _file(self, request: BaseHTTPRequestHandler, content: bytes) -> Reply:
        site, headers = self.site, dict(self.site.more(content))
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        if site.etag:
            headers["ETag"] = etag if site.etag == "strong" else f"W/{etag}"
        if site.changed is not None:
            headers["Last-Modified"] = formatdate(site.changed, usegmt=True)
        match, since = request.headers.get("If-Match"), request.headers.get("If-Unmodified-Since")
        stale = (match and match != headers.get("ETag")) or (since and since != headers.get("Last-Modified"))
        if stale and site.obeys:
            return 412, b"", {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")) if site.ranges else None
        if asked is None:
            return 200, content, headers
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        if start >= len(content):
            return 416, b"", {"Content-Range": f"bytes */{len(content)}"}
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content) if site.length else '*'}"
        return 206, content[start:stop], headers
