"""An answer of HTTP/1.1 (RFC 9112) as it comes from a socket: bounded, and strict about where its body ends."""

import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

MOST_HEAD = 64 * 1024
MOST_FIELDS = 200
MOST_INTERIM = 8
"""So many answers of 1xx may come before the one that counts."""

LONGEST_CHUNK_LINE = 4096
PIECE = 64 * 1024

_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [^\r\0]*)?", re.ASCII)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


class Malformed(OSError):
    """What came is no answer of HTTP/1.1, or it ended before it was complete."""


class Headers(Mapping[str, str]):
    """The header fields of an answer, whatever the case of their names; those of one name are joined."""

    def __init__(self, values: Mapping[str, str]) -> None:
        """``values`` by their names in lower case."""
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Connection:
    """A socket, and what came over it and was not read yet. ``peer`` is the address that it was connected to."""

    def __init__(self, sock: "socket.socket", peer: str = "") -> None:
        self.sock, self.peer = sock, peer
        self._timeout_s = sock.gettimeout()
        self._data = b""

    @property
    def is_empty(self) -> bool:
        """Whether everything that came was read."""
        return not self._data

    def set_timeout(self, seconds: float) -> None:
        """How long it may be silent; asks the system only for another one than it has."""
        if seconds != self._timeout_s:
            self.sock.settimeout(seconds)
            self._timeout_s = seconds

    def take(self, most: int) -> bytes:
        """At most so many bytes, as soon as there are any; none at its end."""
        if not self._data:
            return self.sock.recv(most)
        piece, self._data = self._data[:most], self._data[most:]
        return piece

    def head(self, timeout_s: float) -> bytes:
        """All up to the empty line after a head, which must come whole within ``timeout_s``.

        Raises:
            ConnectionResetError: it was closed without a word.
            Malformed: it ended in the midst, or the head is too large.
        """
        data, until = self._data, time.monotonic() + timeout_s
        self.set_timeout(timeout_s)
        while (end := _END.search(data)) is None:
            if len(data) > MOST_HEAD:
                raise Malformed("the head of an answer is too large")
            piece = self.sock.recv(PIECE)
            if not piece:
                raise Malformed("the head of an answer ended early") if data else ConnectionResetError("no answer")
            data += piece
            if _END.search(data) is None:
                self.set_timeout(max(0.001, until - time.monotonic()))
        self.set_timeout(timeout_s)
        self._data = data[end.end() :]
        return data[: end.start()]

    def line(self) -> bytes:
        """The next line, without its end.

        Raises:
            Malformed: there is none, or it is too long.
        """
        while (end := self._data.find(b"\n", 0, LONGEST_CHUNK_LINE)) < 0:
            piece = self.sock.recv(PIECE) if len(self._data) < LONGEST_CHUNK_LINE else b""
            if not piece:
                raise Malformed("a line of a body in chunks has no end")
            self._data += piece
        line, self._data = self._data[:end], self._data[end + 1 :]
        return line.removesuffix(b"\r")

    def close(self) -> None:
        """Ends it."""
        self.sock.close()


class Body:
    """The body that follows a head: as long as that says, in chunks, or to the end of the connection.

    ``left`` is how many bytes are still to come, of it or of the chunk (None: nobody knows).
    """

    def __init__(self, connection: Connection, status: int, headers: Mapping[str, str], method: str) -> None:
        self._connection = connection
        self.chunked, self.left = _framing(status, headers, method)
        self.is_read = self.left == 0 and not self.chunked
        self._first = True

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes as soon as there are any, and none at its end.

        Raises:
            OSError: the connection broke, is silent, or ended before the body did.
        """
        if not self.is_read and self.chunked and self.left == 0:
            self._next_chunk()
        if self.is_read:
            return b""
        piece = self._connection.take(size if self.left is None else min(size, self.left))
        if self.left is None:
            self.is_read = not piece
        elif piece:
            self.left -= len(piece)
            self.is_read = self.left == 0 and not self.chunked
        else:
            raise Malformed(f"the body ended {self.left} bytes early")
        return piece

    def _next_chunk(self) -> None:
        """The size of the next one; after the last one, what may follow it is read too."""
        if not self._first and self._connection.line():
            raise Malformed("a chunk is longer than it says")
        self._first = False
        size = self._connection.line().partition(b";")[0].strip(b" \t")
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
            raise Malformed("the size of a chunk is none")
        self.left = int(size, 16)
        if self.left == 0:
            for _ in range(MOST_FIELDS):
                if not self._connection.line():
                    self.is_read = True
                    return
            raise Malformed("too much follows the last chunk")


def _framing(status: int, headers: Mapping[str, str], method: str) -> tuple[bool, int | None]:
    """Whether the body comes in chunks, and how many bytes it has as far as that is known (RFC 9112, section 6.3)."""
    if method == "HEAD" or status in (204, 304):
        return False, 0
    if coding := headers.get("transfer-encoding"):
        if coding.strip().lower() != "chunked":
            raise Malformed("the body is encoded in a way that was not asked for")
        return True, 0
    said = headers.get("content-length")
    if said is None:
        return False, None
    lengths = {length.strip() for length in said.split(",")}
    length = lengths.pop()
    if lengths or not re.fullmatch(r"[0-9]{1,18}", length):
        raise Malformed("the length of the body is none")
    return False, int(length)


def read_head(connection: Connection, timeout_s: float) -> tuple[int, dict[str, str], bool]:
    """Status and fields (by names in lower case) of the next answer, and whether the connection stays open after it.

    Raises:
        OSError: it broke, it is silent, or what came is no answer.
    """
    for _ in range(MOST_INTERIM):
        status, fields, stays = parsed(connection.head(timeout_s))
        if status >= 200:
            return status, fields, stays
    raise Malformed("nothing but interim answers came")


def parsed(head: bytes) -> tuple[int, dict[str, str], bool]:
    """Status, fields and whether the connection stays, of one head. Text is Latin-1, as it always was.

    Raises:
        Malformed: it is none.
    """
    first, *lines = head.decode("latin-1").split("\n")
    began = _STATUS.fullmatch(first.removesuffix("\r"))
    if began is None or len(lines) > MOST_FIELDS:
        raise Malformed("what came is no answer of HTTP/1.1")
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        text = line.removesuffix("\r")
        if "\r" in text or "\0" in text:
            raise Malformed("a field holds a control character")
        if name and text.startswith((" ", "\t")):
            fields[name] += f" {text.strip()}"
            continue
        name, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise Malformed("a line of the head is no field")
        name, value = name.lower(), value.strip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    wish = fields.get("connection", "").lower()
    return int(began[2]), fields, "close" not in wish and (began[1] != "0" or "keep-alive" in wish)
