"""Clients that connect and say nothing, half a request, or take no answer: others are served, and they are closed."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lora_cli.serving import connection
from lora_cli.serving.connection import MOST_CONNECTIONS
from tests.attacks.besieged import ends_s, probe_s, probed, resident_mb
from tests.attacks.hooked import HURRIED, import_path
from tests.making import llama_modules, write_adapter, write_base
from tests.serving.running import Running
from tests.slow import slowly

pytestmark = pytest.mark.slow

HEAD_S, BODY_S, IDLE_S = 1, 3, 3
"""Of the servers here, which have a tenth of the usual patience."""

PROMISED = (
    b"POST /v1/probe HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"
)
LARGE = (
    b"POST /v1/probe HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1048576\r\n\r\n"
)
GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """Room for the connections of the attacker, which is this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 6000 if hard == resource.RLIM_INFINITY else min(6000, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("silent")
    write_base(folder / "base")
    write_adapter(folder / "good", modules=llama_modules(["q_proj"]))
    hurried = import_path(folder / "hook", HURRIED)
    with Running(folder, folder / "good", "--base", folder / "base", PYTHONPATH=hurried) as running:
        yield running.until_ready()


@contextmanager
def connected(server: Running, count: int, said: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, on each of which this was said."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            one.sendall(said)
            opened.append(one)
        yield opened


def is_closed(one: socket.socket) -> bool:
    """Whether the server has closed it, whatever it said before."""
    one.setblocking(False)
    try:
        while one.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def closed_within(opened: list[socket.socket], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if all(map(is_closed, opened)):
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize("count", slowly((1100, 4096), 4096))
@pytest.mark.parametrize("said", [b"", b"GET /hea", b"\x16\x03\x01", PROMISED], ids=["nothing", "half", "tls", "body"])
def test_probes_and_requests_come_through(server: Running, count: int, said: bytes) -> None:
    with connected(server, count, said) as opened:
        assert probe_s(server) < 5, "it comes after thousands that are still to be accepted"
        with probed(server), probed(server, "/ready"), probed(server, "/metrics"):
            time.sleep(1.5)
            assert server.probe("good").status_code == 200
        assert sum(not is_closed(one) for one in opened) <= MOST_CONNECTIONS
    assert "Traceback" not in server.said()


def test_the_patience_that_is_documented() -> None:
    times = connection.HEAD_S, connection.BODY_S, connection.IDLE_S, connection.UNREAD_S
    assert (times, connection.SPREAD) == ((10, 30, 30, 30), 0.2)


def test_one_that_says_nothing_or_half_a_head_is_closed(server: Running) -> None:
    with connected(server, 20, b"") as silent, connected(server, 20, b"POST /v1/pro") as half:
        time.sleep(HEAD_S / 2)
        assert not any(map(is_closed, silent + half))
        assert closed_within(silent + half, 3 * HEAD_S)


@pytest.mark.parametrize(
    "said",
    [b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n"],
    ids=["a head", "a body that no handler reads"],
)
def test_one_that_trickles_is_closed(server: Running, said: bytes) -> None:
    with connected(server, 1, said) as (one,):
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012 - the first that meets a closed connection
            while time.monotonic() - began < 10 * HEAD_S:
                one.sendall(b"a: b\r\n")
                time.sleep(0.1)
        assert HEAD_S / 2 < time.monotonic() - began < 3 * HEAD_S


def test_the_head_has_its_time_from_its_first_byte(server: Running) -> None:
    with connected(server, 1, GET) as (one,):
        assert b"200 OK" in one.recv(1 << 16)
        time.sleep(IDLE_S / 2)
        one.sendall(b"GET /hea")
        time.sleep(HEAD_S / 2)
        assert not is_closed(one)
        assert closed_within([one], 3 * HEAD_S)


def test_a_body_or_a_request_that_does_not_come_is_not_waited_for(server: Running) -> None:
    with connected(server, 20, PROMISED) as opened, connected(server, 20, GET) as idle:
        time.sleep(BODY_S / 2)
        assert not any(map(is_closed, opened + idle))
        assert closed_within(opened + idle, BODY_S)


def test_large_bodies_that_never_end_take_little_memory(server: Running) -> None:
    before = resident_mb(server.process.pid)
    with connected(server, 600, LARGE) as opened:
        for one in opened:
            try:
                one.setblocking(True)
                one.sendall(b"[" * 1_000_000)
            except OSError:
                pass  # it was refused
        with probed(server):
            time.sleep(1)
            assert server.probe("good").status_code == 200
        assert resident_mb(server.process.pid) - before < 250


def test_requests_that_are_answered_slowly_leave_room_for_probes(tmp_path: Path) -> None:
    """They wait for an origin that never answers: as many as there may be, and more."""
    write_base(tmp_path / "base")
    policy = tmp_path / "policy.yaml"
    policy.write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: ['hf://*']\n")
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Running(tmp_path, "--base", tmp_path / "base", "--policy", policy, HF_ENDPOINT=endpoint) as running:
            running.until_ready()
            body = b'{"lora_name": "x%d", "lora_path": "hf://acme/sql"}'
            head = b"POST /v1/load_lora_adapter HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            with ExitStack() as stack:
                opened = []
                for number in range(1100):
                    said = body % number
                    one = stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
                    one.sendall(head + b"content-length: %d\r\n\r\n" % len(said) + said)
                    opened.append(one)
                time.sleep(2)
                with probed(running), probed(running, "/metrics"):
                    time.sleep(2)
                refused = running.load("more", "hf://acme/sql")
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert ends_s(running) < 2.5


def test_a_server_with_silent_connections_ends_when_told(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    with Running(tmp_path, "--base", tmp_path / "base", "--root", tmp_path) as running:
        running.until_ready()
        with connected(running, 300, b""), connected(running, 300, b"GET /hea"), connected(running, 300, PROMISED):
            time.sleep(0.5)
            assert ends_s(running) < 2
