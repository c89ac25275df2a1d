"""Answers of HTTP/1.1, read from a socket: what is one, where its body ends, and what is never taken for one."""

import http.client
import io
import socket
import threading
from collections.abc import Iterable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.sources.answers import MOST_FIELDS, MOST_HEAD, Body, Connection, Malformed, parsed, read_head


def answered(pieces: Iterable[bytes], method: str = "GET", timeout_s: float = 5) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of what comes in these pieces; the connection ends after them."""
    near, far = socket.socketpair()

    def send() -> None:
        with closing(far):
            for piece in pieces:
                far.sendall(piece)

    sender = threading.Thread(target=send)
    with closing(near):
        sender.start()
        try:
            connection = Connection(near)
            status, fields, _ = read_head(connection, timeout_s)
            body, data = Body(connection, status, fields, method), b""
            while piece := body.read(7):
                data += piece
            return status, fields, data
        finally:
            near.shutdown(socket.SHUT_RD)
            sender.join()


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: Chunked\r\n"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\n01234", b"01234"),
        (OK + b"Content-Length: 5, 5\r\n\r\n01234", b"01234"),
        (OK + b"\r\n01234 to the end", b"01234 to the end"),
        (b"HTTP/1.0 200\nContent-Length: 2\n\n{}", b"{}"),
        (b"HTTP/1.1 100 .\r\n\r\nHTTP/1.1 103 .\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 204 .\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 304 .\r\n\r\n", b""),
        (OK + CHUNKED + b"\r\n2;x=y\r\n01\r\nA\r\n0123456789\r\n0\r\nT: t\r\n\r\n", b"010123456789"),
        (OK + CHUNKED + b"Content-Length: 9\r\n\r\n0\r\n\r\n", b""),
    ],
)
def test_a_body_ends_where_its_head_says(answer: bytes, body: bytes) -> None:
    assert answered([answer])[2] == body
    assert answered(answer[at : at + 1] for at in range(len(answer)))[2] == body


def test_the_answer_to_a_head_has_no_body() -> None:
    assert answered([OK + b"Content-Length: 5\r\n\r\n"], "HEAD")[2] == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        OK + b"Content-Length: 5\r\n\r\n0123",
        OK + b"Content-Length: five\r\n\r\n01234",
        OK + b"Content-Length: -5\r\n\r\n01234",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n012345",
        OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n0",
        OK + b"Content-Length : 5\r\n\r\n01234",
        OK + b" Content-Length: 5\r\n\r\n01234",
        OK + b"no field\r\n\r\n",
        OK + b": empty\r\n\r\n",
        OK + b"X: a\rContent-Length: 5\r\n\r\n01234",
        OK + b"X: a\0\r\n\r\n01234",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + CHUNKED + b"\r\n5\r\n0123\r\n",
        OK + CHUNKED + b"\r\n2\r\n0123\r\n0\r\n\r\n",
        OK + CHUNKED + b"\r\n-2\r\n01\r\n0\r\n\r\n",
        OK + CHUNKED + b"\r\n2\r\n01\r\n0\r\n",
        OK + CHUNKED + b"\r\n" + b"1" * 10_000,
        OK + CHUNKED + b"\r\n0\r\n" + b"T: t\r\n" * (MOST_FIELDS + 1) + b"\r\n",
        OK + b"X: " + b"y" * 2 * MOST_HEAD + b"\r\n\r\n",
        OK + b"X: y\r\n" * (MOST_FIELDS + 1) + b"\r\n",
        OK + b"X: never ends",
        b"HTTP/1.1 100 .\r\n\r\n" * 100,
    ],
)
def test_what_is_no_answer_is_never_taken_for_one(answer: bytes) -> None:
    with pytest.raises(Malformed):
        answered([answer])


def test_a_connection_that_ends_without_a_word_was_closed_not_malformed() -> None:
    with pytest.raises(ConnectionResetError):
        answered([])


def test_a_head_that_trickles_is_given_up_after_the_timeout() -> None:
    near, far = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        far.sendall(OK)
        while not stop.wait(0.05):
            far.sendall(b"X")

    dripping = threading.Thread(target=drip)
    with closing(near), closing(far):
        dripping.start()
        try:
            with pytest.raises(TimeoutError):
                read_head(Connection(near), 0.3)
        finally:
            stop.set()
            dripping.join()


def test_a_folded_field_is_one_line() -> None:
    assert parsed(b"HTTP/1.1 200 OK\r\nX: a\r\n\t b\r\nY: c")[1] == {"x": "a b", "y": "c"}


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
    ],
)
def test_a_connection_stays_unless_one_of_both_says_otherwise(head: bytes, stays: bool) -> None:
    assert parsed(head)[2] == stays


NAMES = st.text(st.sampled_from("abcXYZ-_09"), min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f\x85"), max_size=30)


class Spoken:
    """Bytes, as the standard library wants a socket to be."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.integers(200, 599))
def test_a_head_is_read_as_the_standard_library_reads_it(fields: list[tuple[str, str]], status: int) -> None:
    head = f"HTTP/1.1 {status} .\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    known = http.client.HTTPResponse(Spoken(head.encode("latin-1") + b"\r\n"))  # type: ignore[arg-type]
    known.begin()
    joined: dict[str, str] = {}
    for name, value in known.headers.items():
        key = name.lower()
        joined[key] = f"{joined[key]}, {value.strip(' ')}" if key in joined else value.strip(" ")

    found = parsed(head.encode("latin-1").removesuffix(b"\r\n"))

    assert found[:2] == (known.status, joined)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_malformed(data: bytes) -> None:
    try:
        parsed(data)
    except Malformed:
        return
