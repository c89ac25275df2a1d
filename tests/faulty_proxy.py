"""A proxy on loopback before a real server, that breaks on purpose what passes through it: real sockets, real resets.

In a test::

    with FaultyProxy("127.0.0.1:8333") as proxy:
        proxy.fault("GET /bucket/weights", reset_at=1000, times=-1)
        ...                                     # the client is told proxy.url
        assert proxy.asked

It understands HTTP, one request at a time. ``raw`` passes any protocol on; then each connection is one answer.
"""

import contextlib
import fcntl
import http.client
import re
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.answering import Listening

PIECE = 64 * 1024
UNTOUCHED = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


@dataclass
class Answer:
    """What the server said; ``length`` is what Content-Length will claim (None: the truth)."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int | None = None


@dataclass(slots=True)
class Fault:
    """What goes wrong with answers to requests whose ``"METHOD target range"`` the regex ``match`` finds.

    ``times`` of them are hit (-1: all). ``status`` answers in the server's place, with ``headers``; ``change`` makes
    another answer of the server's; ``before`` runs before the server is asked. Offsets count the bytes of the body:
    ``reset_at`` resets the connection there, ``cut_at`` closes it, ``stall_at`` says nothing more and leaves it open,
    ``flip_at`` turns one bit over. ``drip_s`` sends one byte at a time with that pause.
    """

    match: str = ""
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    change: Callable[[Answer], Answer] = lambda answer: answer
    before: Callable[[], None] = lambda: None
    reset_at: int | None = None
    cut_at: int | None = None
    stall_at: int | None = None
    flip_at: int | None = None
    drip_s: float = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and when it came by a monotonic clock."""

    line: str
    at: float
    authorized: bool = False

    @property
    def start(self) -> int:
        """The first byte that it asked for."""
        found = re.search(r"bytes=(\d+)-", self.line)
        return int(found[1]) if found else 0


class FaultyProxy(Listening):
    """Listens until its context ends. ``own_host`` leaves the client's Host as it is, which a signature may hold."""

    def __init__(
        self, upstream: str, *, raw: bool = False, certificate: Path | None = None, own_host: bool = False
    ) -> None:
        super().__init__()
        self.upstream, self.raw, self.own_host = upstream.removeprefix("http://"), raw, own_host
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
            self.place = self.place.replace("127.0.0.1", "localhost")
        self.url = f"{'https' if certificate else 'http'}://{self.place}"

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        super().__exit__()

    def fault(self, match: str = "", **how: object) -> None:
        """The next answers that match go wrong so; those that came before go first."""
        self.faults.append(Fault(match, **how))  # type: ignore[arg-type]

    def mend(self) -> None:
        """From now on nothing goes wrong, and nothing has been asked."""
        self.faults.clear()
        self.asked.clear()

    def _taken(self, line: str, *, authorized: bool = False) -> Fault:
        with self._lock:
            self.asked.append(Asked(line, time.monotonic(), authorized))
            for fault in self.faults:
                if fault.times and re.search(fault.match, line):
                    fault.times -= 1
                    return fault
        return Fault()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = request if self._tls is None else self._tls.wrap_socket(request, server_side=True)
        self.open.add(connection)
        try:
            if self.raw:
                self._pass(connection)
            else:
                while not self._stopped.is_set() and self._answer(connection):
                    pass
        except http.client.HTTPException:
            pass
        finally:
            self.open.discard(connection)
            connection.close()

    def _pass(self, connection: socket.socket) -> None:
        """Any protocol: what the server says goes through the fault."""
        fault = self._taken("CONNECT")
        fault.before()
        host, _, port = self.upstream.partition(":")
        with socket.create_connection((host, int(port))) as server:
            back = threading.Thread(target=_copied, args=(connection, server), daemon=True)
            back.start()
            sent = 0
            while piece := server.recv(PIECE):
                if not self._sent(connection, piece, sent, fault):
                    break
                sent += len(piece)
            for ended, how in ((server, socket.SHUT_RDWR), (connection, socket.SHUT_WR)):
                with contextlib.suppress(OSError):
                    ended.shutdown(how)
            back.join(5)

    def _answer(self, connection: socket.socket) -> bool:
        """One request and its answer; whether the connection is still good."""
        head = _head_of(connection)
        if not head:
            return False
        request, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = request.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        fault = self._taken(f"{method} {target} {headers.get('range', '')}", authorized="authorization" in headers)
        fault.before()
        if fault.status:
            answer = Answer(fault.status, dict(fault.headers), b"")
        else:
            answer = fault.change(self._upstream(method, target, headers))
        length = len(answer.body) if answer.length is None else answer.length
        fields = {**answer.headers, "Content-Length": str(length)}
        told = f"HTTP/1.1 {answer.status} .\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        start = f"{told}\r\n".encode("latin-1")
        if not self._sent(connection, start, 0, Fault()):
            return False
        if method == "HEAD":
            return True
        return self._sent(connection, answer.body, 0, fault) and length == len(answer.body)

    def _upstream(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        server = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            server.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name not in UNTOUCHED:
                    server.putheader(name, value if name != "host" or self.own_host else self.upstream)
            server.putheader("Connection", "close")
            server.endheaders()
            response = server.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in UNTOUCHED}
            claimed = response.getheader("Content-Length") if method == "HEAD" else None
            return Answer(response.status, kept, response.read(), int(claimed) if claimed else None)
        finally:
            server.close()

    def _sent(self, connection: socket.socket, data: bytes, offset: int, fault: Fault) -> bool:
        """Sends bytes of which the first has that ``offset``; whether the connection is still good."""
        if fault.flip_at is not None and offset <= fault.flip_at < offset + len(data):
            at = fault.flip_at - offset
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        ends = [at for at in (fault.reset_at, fault.cut_at, fault.stall_at) if at is not None]
        end = min(ends, default=None)
        if end is None or end >= offset + len(data):
            return self._dripped(connection, data, fault.drip_s)
        self._dripped(connection, data[: max(0, end - offset)], fault.drip_s)
        if end == fault.reset_at:
            _reset(connection)
        elif end == fault.stall_at:
            while not self._stopped.is_set() and fault in self.faults and connection.fileno() >= 0:
                self._stopped.wait(0.05)
        return False

    def _dripped(self, connection: socket.socket, data: bytes, drip_s: float) -> bool:
        if not drip_s:
            connection.sendall(data)
            return True
        for at in range(len(data)):
            if self._stopped.wait(drip_s):
                return False
            connection.sendall(data[at : at + 1])
        return True


def _head_of(connection: socket.socket) -> bytes:
    """A request as far as its empty line, which is all of a GET; b"" when the client has left."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = connection.recv(PIECE)
        if not piece:
            return b""
        head += piece
    return head[:-4]


def _copied(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    """Closes it with a reset, once all that was sent has arrived: so the bytes before it are always the same."""
    until = time.monotonic() + 2
    while (
        time.monotonic() < until and struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"0000"))[0]
    ):
        time.sleep(0.001)
    # Whoever reads from it in another thread would keep it open.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
