"""A small Hub for tests: the real one's HTTP surface over two origins, with faults on demand.

In a test::

    with Hub() as hub:
        commit = hub.add("acme/sql-lora", {"adapter_config.json": {...}, "adapter_model.safetensors": b"..."})
        hub.fault("adapter_model", status=503, times=2)
        ...                                     # HF_ENDPOINT=hub.endpoint
        assert hub.count("/resolve/") == 3

As a process, where each ``DIR/<organisation>/<name>/`` is a repository with one commit on main::

    python -m tests.hub_server --root DIR --port 8400

LFS files are redirected to a second origin (another port) that wants a signature and refuses an Authorization header.
"""

import argparse
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from tests.answering import Listening
from tests.hub_content import Commit, Content, Entry, Repo, entries_under, entry
from tests.hub_routes import Reply, Request, answer

UNLOGGED = "/api/agent-harnesses"


@dataclass(slots=True)
class Fault:
    """What goes wrong with ``times`` requests (-1: all) whose ``"METHOD origin path?query"`` the regex ``match`` finds.

    ``status`` answers at once, with ``headers`` and ``body``; ``delay_s`` waits first. Of an answer that goes out:
    ``cut_at`` closes the connection after so many body bytes, ``stall_at`` waits there for ``stall_s``, ``flip_at``
    inverts the byte at that offset of the file.
    """

    match: str = ""
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    delay_s: float = 0
    cut_at: int | None = None
    stall_at: int | None = None
    stall_s: float = 60
    flip_at: int | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """One answered request; ``origin`` is ``api`` or ``cdn``."""

    method: str
    origin: str
    target: str
    authorized: bool
    range: str


class Hub:
    """The repositories, two listening origins, the faults to come and the requests that were made.

    ``bare`` leaves sizes and digests out of what it lists and answers, as some mirrors do. ``small_files_by_redirect``
    sends small files the long way.
    """

    def __init__(self, root: Path | None = None, *, port: int = 0, cdn_port: int = 0) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.tokens: dict[str, frozenset[str]] = {}
        self.blobs: dict[str, Entry] = {}
        self.faults: list[Fault] = []
        self.requests: list[Logged] = []
        self.page_size = 1000
        self.small_files_by_redirect = False
        self.bare = False
        self.secret = secrets.token_bytes(16)
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        for directory in sorted(root.glob("*/*")) if root else []:
            self.add(directory.relative_to(root or directory).as_posix(), directory)
        self._api = _Server(self, "api", port)
        self._cdn = _Server(self, "cdn", cdn_port)
        self.endpoint = self._api.url
        self.cdn = self._cdn.url

    def __enter__(self) -> Self:
        self._api.__enter__()
        self._cdn.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopped.set()
        self._api.__exit__()
        self._cdn.__exit__()

    def add(
        self,
        id: str,
        files: Mapping[str, Content] | Path,
        *,
        branch: str = "main",
        private: bool | None = None,
        gated: bool | None = None,
    ) -> str:
        """Commit exactly these files (or a whole directory) on ``branch``; the 40-hex id of the commit."""
        repo = self.repos.setdefault(id, Repo(id))
        repo.private = repo.private if private is None else private
        repo.gated = repo.gated if gated is None else gated
        found = entries_under(files) if isinstance(files, Path) else [entry(path, c) for path, c in files.items()]
        self.blobs.update({file.sha256: file for file in found if file.lfs})
        return repo.add(found, branch).id

    def rename(self, old: str, new: str) -> None:
        """Move a repository; its old name redirects from now on."""
        repo = self.repos.pop(old)
        repo.id = new
        self.repos[new] = repo
        self.renamed[old] = new

    def token(self, token: str, *repos: str) -> str:
        """Make a token known that may read these private and gated repositories."""
        self.tokens[token] = frozenset(repos)
        return token

    def commit(self, id: str, revision: str = "main") -> Commit:
        """The commit that a revision means here."""
        commit = self.repos[id].commit_at(revision)
        assert commit is not None
        return commit

    def fault(self, match: str, **how: Any) -> Fault:
        """Arrange a fault (the fields of ``Fault``); the first one that still applies wins."""
        fault = Fault(match, **how)
        self.faults.append(fault)
        return fault

    def take_fault(self, line: str) -> Fault | None:
        """The fault that hits this request, and one less of it to come."""
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.match, line):
                    fault.times -= 1
                    return fault
        return None

    def count(self, match: str = "") -> int:
        """How many requests were made whose ``"METHOD origin path?query"`` the regex ``match`` finds."""
        return sum(1 for r in self.requests if re.search(match, f"{r.method} {r.origin} {r.target}"))

    @property
    def connections(self) -> int:
        """How many connections were accepted so far, on both origins."""
        return self._api.accepted + self._cdn.accepted

    def signature(self, sha256: str) -> str:
        """What the second origin wants to see in ``?sig=``."""
        return hmac.new(self.secret, sha256.encode(), hashlib.sha256).hexdigest()

    def expire_signatures(self) -> None:
        """Links to the other origins that were handed out so far answer 403 from now on."""
        self.secret = secrets.token_bytes(16)


class _Handler(BaseHTTPRequestHandler):
    """Reads one request after the other from a connection, and answers as the routes say."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        hub, origin = self.server.hub, self.server.origin
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        fault = None
        authorization, asked_range = self.headers.get("Authorization", ""), self.headers.get("Range", "")
        if parts.path != UNLOGGED:
            hub.requests.append(Logged(self.command, origin, self.path, bool(authorization), asked_range))
            fault = hub.take_fault(f"{self.command} {origin} {self.path}")
        if fault and fault.delay_s:
            hub.stopped.wait(fault.delay_s)
        if fault and fault.status:
            reply = Reply(fault.status, dict(fault.headers), fault.body.encode())
        else:
            reply = answer(hub, Request(origin, parts.path, dict(parse_qsl(parts.query)), authorization, asked_range))
        try:
            self._send(reply, fault or Fault())
        except OSError:
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def _send(self, reply: Reply, fault: Fault) -> None:
        headers = {"Content-Length": str(reply.length), **reply.headers}
        head = f"HTTP/1.1 {reply.status} .\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.connection.sendall(head.encode() + b"\r\n")
        if self.command == "HEAD" or not reply.length:
            return
        content = reply.content
        if isinstance(content, Path):
            if fault == Fault():
                with content.open("rb") as file:
                    self.connection.sendfile(file, reply.start, reply.length)
                return
            content = content.read_bytes()
        body = bytearray(content[reply.start : reply.start + reply.length])
        if fault.flip_at is not None and 0 <= fault.flip_at - reply.start < len(body):
            body[fault.flip_at - reply.start] ^= 0xFF
        end = min((at for at in (fault.cut_at, fault.stall_at) if at is not None), default=len(body))
        self.connection.sendall(body[:end])
        if end < len(body) and end == fault.stall_at:
            self.server.hub.stopped.wait(fault.stall_s)
            self.connection.sendall(body[end:])
        elif end < len(body):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class _Server(Listening):
    """One origin."""

    daemon_threads = False

    def __init__(self, hub: Hub, origin: str, port: int) -> None:
        super().__init__(_Handler, port)
        self.hub, self.origin, self.accepted, self.url = hub, origin, 0, f"http://{self.place}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.accepted += 1
        super().process_request(request, client_address)


def main() -> None:
    """Serve until told to stop, or until whoever started this is gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cdn-port", type=int, default=0)
    parser.add_argument("--cdn-url", help="where the second origin is reached, if a proxy stands before it")
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    parent = os.getppid()
    with Hub(options.root, port=options.port, cdn_port=options.cdn_port) as hub:
        hub.cdn = options.cdn_url or hub.cdn
        print(json.dumps({"endpoint": hub.endpoint, "cdn": hub.cdn, "repos": sorted(hub.repos)}), flush=True)
        while not stop.wait(0.5) and os.getppid() == parent:
            pass


if __name__ == "__main__":
    main()
