"""What answers in an engine's place, and says what no engine says, or more than anybody wants."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

import pytest

from lora_cli.bench.live import load_generator
from lora_cli.bench.live.load_generator import LoadTest, run_load
from lora_cli.bench.live.requests import PreparedRequest, RequestResult
from lora_cli.endpoint.address import parse_address
from lora_cli.endpoint.client import Endpoint
from lora_cli.endpoint.servers import SERVERS
from lora_cli.errors import EndpointError
from tests.answering import answering

OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def sending(pieces: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """A server that answers each connection with these pieces; its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:

        def answer(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                for piece in pieces():
                    connection.sendall(piece)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


HUGE = "1" + "0" * 400


@pytest.mark.parametrize(
    "logprobs",
    ['{"tokens": 5}', '{"token_logprobs": 5}', f'{{"token_logprobs": [-{HUGE}]}}', '{"token_logprobs": ["x"]}'],
)
def test_a_completion_that_is_none_is_one_error(logprobs: str) -> None:
    said = f'{{"choices": [{{"text": "a", "logprobs": {logprobs}}}]}}'.encode()
    with answering(lambda _: (200, said, {})) as url:
        endpoint = Endpoint(parse_address(url))
        server = SERVERS["vllm"](endpoint)
        with pytest.raises(EndpointError, match="/v1/completions"):
            server.complete("base", "x", 1)


def test_an_error_of_a_proof_that_no_number_can_hold_is_none() -> None:
    said = f'{{"adapters": [{{"name": "sql", "proved": true, "worst_error": {HUGE}}}]}}'.encode()
    with answering(lambda _: (200, said, {})) as url:
        endpoint = Endpoint(parse_address(url))
        assert SERVERS["lora-cli"](endpoint).proof("sql") is None  # type: ignore[attr-defined]


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def refusal() -> Iterator[bytes]:
    yield b"HTTP/1.1 500 No\r\n" + CHUNKED
    yield from (chunk(b"x" * 65536) for _ in count())


def events() -> Iterator[bytes]:
    yield OK + CHUNKED
    yield from (chunk(b'data: {"choices": [{"text": "a"}]}\n\n' * 1000) for _ in count())


def trickle() -> Iterator[bytes]:
    yield OK + CHUNKED
    for _ in count():
        time.sleep(0.05)
        yield chunk(b":\n\n")


def usage() -> Iterator[bytes]:
    event = f'data: {{"choices": [{{}}], "usage": {{"completion_tokens": {HUGE}}}}}\n\ndata: [DONE]\n\n'
    yield OK + CHUNKED + chunk(event.encode()) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        (refusal, "500: xxx"),
        (events, "more than 1048576 bytes"),
        (trickle, "takes over 1 s"),
        (usage, "must be at most"),
    ],
)
def test_a_measured_response_is_bounded(
    pieces: Callable[[], Iterator[bytes]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_generator, "LARGEST_RESPONSE", 1 << 20)
    monkeypatch.setattr(load_generator, "LONGEST_S", 1.0 if pieces is trickle else 60.0)
    monkeypatch.setattr(load_generator, "WARM_UP_S", 1.0)
    results: list[RequestResult] = []
    with sending(pieces) as url:
        run_load(LoadTest(parse_address(url), "", [PreparedRequest(0.0, "sql", b"{}")]), results)
    assert why in results[0].error
