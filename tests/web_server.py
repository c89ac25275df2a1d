"""A web server of files for tests, that can do as much or as little of HTTP as real ones do."""

import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

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
    before: Callable[[str], None] = lambda _: None
    cuts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """One request that came in."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.target).path).rpartition("/")[2]


class WebServer(ThreadingHTTPServer):
    """A ``Site``, on loopback, while the context lasts; over TLS with a ``certificate``."""

    daemon_threads = True

    def __init__(self, site: Site, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site, self.asked = site, list[Asked]()
        self.place = f"{'localhost' if certificate else '127.0.0.1'}:{self.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that had enough is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: WebServer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        site, path = self.server.site, unquote(urlsplit(self.path).path).lstrip("/")
        self.server.asked.append(Asked(self.command, self.path, dict(self.headers)))
        site.before(path)
        if site.token and self.headers.get("Authorization") != f"Bearer {site.token}":
            return self._send(401, {"WWW-Authenticate": "Bearer"}, b"")
        if (target := site.redirect(self.path)) is not None:
            return self._send(302, {"Location": target}, b"")
        if path in site.statuses:
            return self._send(site.statuses[path], site.more(b""), b"no")
        if path not in site.files:
            status, kind, body = site.missing
            return self._send(status, {"Content-Type": kind}, body)
        return self._file(site, path, site.files[path])

    def _file(self, site: Site, path: str, content: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream", **site.more(content)}
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        if site.etag:
            headers["ETag"] = etag if site.etag == "strong" else f"W/{etag}"
        if site.changed is not None:
            headers["Last-Modified"] = formatdate(site.changed, usegmt=True)
        match, since = self.headers.get("If-Match"), self.headers.get("If-Unmodified-Since")
        stale = (match and match != headers.get("ETag")) or (since and since != headers.get("Last-Modified"))
        if stale and site.obeys:
            return self._send(412, {}, b"")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if site.ranges else None
        if asked is None:
            return self._send(200, headers, content)
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        if start >= len(content):
            return self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content) if site.length else '*'}"
        return self._send(206, headers, content[start:stop])

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.site.length or status != 200:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        cuts = self.server.site.cuts
        if cuts and cuts[0] < len(body):
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.wfile.write(body)
