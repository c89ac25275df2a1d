"""The HTTP client on a bad day: what it tries again, how long it waits, what it never follows or reads."""

import threading
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.errors import Corrupt, LoraCliError, Refused, Unreachable
from lora_cli.sources.http import ANSWER_CAP, Http, Piece, StatusError, get_headers, redirect_target
from lora_cli.sources.retries import Retries, requested_wait_s
from tests.hub_server import Hub
from tests.sources.http_client import NAME, WEIGHTS, Client, resumed
from tests.sources.raw_servers import raw_server


@pytest.fixture
def client(hub: Hub) -> Client:
    hub.add("acme/sql-lora", {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": "{}"})
    return Client(hub)


@pytest.mark.parametrize("status", [408, 429, 500, 503, 599])
@pytest.mark.parametrize("place", ["/revision/", "/resolve/", "GET cdn"])
def test_a_storm_is_waited_out(client: Client, status: int, place: str) -> None:
    client.hub.fault(place, status=status, times=3)
    assert client.json()
    assert client.read() == WEIGHTS
    assert len(client.waits) == 3
    assert client.waits[0] <= 0.5 < client.waits[2] <= 2


@pytest.mark.parametrize("retries", [0, 5])
def test_a_storm_that_does_not_end_is_given_up_after_the_retries(hub: Hub, client: Client, retries: int) -> None:
    hub.fault("", status=503, times=-1)
    error = Client(hub, retries=retries).fails()
    assert isinstance(error, Unreachable)
    assert ("answered 503 (tried 6 times)" in str(error)) == (retries == 5)
    assert hub.count() == retries + 1


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 55),
        ({"RateLimit": '"resolvers";r=0; t = 7'}, 7),
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": "12", "RateLimit": '"api";r=0;t=30'}, 30),
        ({"Retry-After": "soon"}, 0.25),
    ],
)
def test_what_the_server_asks_is_what_is_waited(client: Client, headers: dict[str, str], least: float) -> None:
    client.hub.fault("/revision/", status=429, headers=headers)
    assert client.json()
    assert least <= client.waits[0] <= max(0.5, least * 1.1 + 0.2)


def test_what_is_waited_between_tries_is_nobodys_turn(hub: Hub, client: Client) -> None:
    hub.fault("", status=503, headers={"Retry-After": "60"}, times=2)
    turn, held = threading.Lock(), list[bool]()
    http = Http(hub.endpoint, 5, Retries(2, lambda _: held.append(turn.locked())))
    assert get_headers(http, f"{hub.endpoint}/{NAME}", "weights", turn)[0] == 206
    assert held == [False, False]


def test_a_date_that_is_too_far_away_is_not_waited_for(client: Client) -> None:
    in_an_hour = formatdate(time.time() + 3600, usegmt=True)
    client.hub.fault("/revision/", status=429, headers={"Retry-After": in_an_hour})
    with pytest.raises(Unreachable, match=r"requests a wait of 3\d\d\d s") as caught:
        client.json()
    assert "HF_TOKEN" in caught.value.hint


@given(st.dictionaries(st.sampled_from(["RateLimit", "Retry-After"]), st.text(max_size=40)))
def test_no_header_of_a_server_is_an_error_of_ours(headers: dict[str, str]) -> None:
    asked = requested_wait_s(headers)
    assert asked is None or asked >= 0


def test_what_another_try_would_not_change_is_not_tried_again(client: Client) -> None:
    client.hub.fault("", status=404, headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(StatusError) as caught:
        client.read()
    assert (caught.value.status, caught.value.code, client.waits) == (404, "EntryNotFound", [])


def test_a_stream_cut_again_and_again_goes_on_where_it_was(client: Client) -> None:
    client.hub.fault("GET cdn", cut_at=90_000, times=-1)
    assert client.read() == WEIGHTS
    assert len(client.waits) == len(WEIGHTS) // 90_000
    assert client.hub.count("GET cdn") == len(client.waits) + 1


def test_only_tries_that_bring_nothing_count(hub: Hub, client: Client) -> None:
    hub.fault("GET cdn", cut_at=200_000, times=2)
    hub.fault("GET cdn", status=500, times=1)
    hub.fault("GET cdn", cut_at=200_000, times=2)
    assert Client(hub, retries=2).read() == WEIGHTS
    hub.fault("GET cdn", cut_at=0, times=-1)
    with pytest.raises(Unreachable, match="was cut"):
        Client(hub, retries=2).read()


def test_a_server_that_ignores_the_range_is_read_from_the_right_offset(client: Client) -> None:
    client.hub.fault("GET cdn", ignore_range=True, times=4)
    assert client.read(300_000, 300_010) == WEIGHTS[300_000:300_010]
    assert client.read(300_000) == WEIGHTS[300_000:]
    assert client.read(5, 10, size=None) == WEIGHTS[5:10]
    assert client.read(len(WEIGHTS) - 1, len(WEIGHTS)) == WEIGHTS[-1:]
    client.hub.fault("GET cdn", cut_at=500_001)
    client.hub.fault("GET cdn", ignore_range=True)
    assert client.read() == WEIGHTS


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    with Hub() as hub:
        hub.add("acme/sql-lora", {"adapter_model.safetensors": WEIGHTS})
        yield Client(hub)


@given(start=st.integers(0, len(WEIGHTS) + 10), stop=st.none() | st.integers(0, len(WEIGHTS) + 10))
def test_any_range_is_what_a_slice_is(shared: Client, start: int, stop: int | None) -> None:
    assert shared.read(start, stop) == WEIGHTS[start:stop]


def test_a_silence_ends_after_the_timeout_and_is_called_one(hub: Hub, client: Client) -> None:
    hub.fault("GET cdn", stall_at=70_000)
    impatient = Client(hub, timeout_s=0.3)
    assert impatient.read() == WEIGHTS
    assert len(impatient.waits) == 1
    hub.fault("", delay_s=30, times=-1)
    with pytest.raises(Unreachable, match=r"sent no data for 0\.2 s"):
        Client(hub, retries=0, timeout_s=0.2).read()


@pytest.mark.slow
def test_a_body_that_trickles_is_given_up(hub: Hub, client: Client) -> None:
    hub.fault("GET cdn|/revision/", drip_s=0.02, times=-1)
    trickled = Client(hub, retries=0, timeout_s=0.5)
    for ask in (trickled.read, trickled.json):
        with pytest.raises(Unreachable, match=r"sent only \d+ bytes|did not finish"):
            ask()


def test_a_slow_reader_is_not_taken_for_a_slow_server(hub: Hub, client: Client) -> None:
    pieces = resumed(Client(hub, timeout_s=0.2).http, f"{hub.endpoint}/{NAME}", Piece(0, None, len(WEIGHTS)))
    read = next(pieces)
    time.sleep(0.5)
    assert read + b"".join(pieces) == WEIGHTS
    assert hub.count("GET cdn") == 1


@pytest.mark.parametrize("body", ["", "[1,", "<html>login</html>", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\x00"])
def test_what_is_not_json_is_tried_again_and_then_said(hub: Hub, client: Client, body: str) -> None:
    hub.fault("/revision/", status=200, body=body)
    assert client.json()
    assert len(client.waits) == 1
    hub.fault("/revision/", status=200, body=body, times=-1)
    with pytest.raises(Unreachable, match="not JSON"):
        client.json()


def test_json_is_tried_again_when_it_is_cut_and_never_read_without_end(client: Client) -> None:
    client.hub.fault("/revision/", cut_at=20)
    assert client.json()
    assert len(client.waits) == 1
    client.hub.fault("/revision/", status=200, body=" " * (ANSWER_CAP + 1))
    with pytest.raises(Refused, match=f"larger than {ANSWER_CAP} bytes"):
        client.json()


def test_a_link_that_is_stale_when_it_is_handed_out_is_asked_for_again(client: Client) -> None:
    client.hub.fault("GET cdn", status=403)
    assert client.read() == WEIGHTS
    assert client.hub.count("/resolve/") == 2


def test_a_remembered_link_to_a_server_that_is_gone_is_asked_for_again(client: Client) -> None:
    gone = "http://127.0.0.1:9/gone", time.monotonic() + 300, "127.0.0.1"
    client.http.links[f"{client.hub.endpoint}/{NAME}"] = gone
    assert client.read() == WEIGHTS
    assert (len(client.waits), client.hub.count("/resolve/")) == (1, 1)


def test_a_redirect_loop_ends(client: Client) -> None:
    client.hub.fault("", status=302, headers={"Location": f"/{NAME}"}, times=-1)
    with pytest.raises(Unreachable, match="more than 5 times"):
        client.read()
    assert client.hub.count() == 6


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://user:secret@127.0.0.1/", "http://[::1", "//:0/"],
)
def test_a_redirect_to_no_web_address_is_not_followed(client: Client, location: str) -> None:
    client.hub.fault("", status=302, headers={"Location": location}, times=-1)
    error = client.fails()
    assert isinstance(error, Unreachable)
    assert "weights: " in str(error)
    assert "an invalid web address" in str(error)
    assert client.hub.count() == 1
    assert "secret" not in str(error)


def test_a_redirect_may_gain_encryption_but_not_lose_it() -> None:
    assert redirect_target("http://hub/a", "https://hub/b", "sql") == "https://hub/b"
    assert redirect_target("https://hub/a/b", "../c?d=e", "sql") == "https://hub/c?d=e"
    with pytest.raises(Refused, match="sql: hub redirects from https to http, at cdn:8080"):
        redirect_target("https://hub/a", "http://cdn:8080/b?sig=secret", "sql")


def test_a_signature_is_not_in_an_error(client: Client) -> None:
    client.hub.fault("GET cdn", status=500, times=-1)
    error = client.fails()
    assert "sig=" not in f"{error} {error.hint}"
    assert client.hub.signature("") not in str(error)


OK_HEAD = b"HTTP/1.1 200 .\r\n"
RANGE = b"HTTP/1.1 206 .\r\nContent-Length: 5\r\nContent-Range: bytes "
CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (RANGE + b"3-7/100\r\n\r\n01234", Corrupt, "sent others"),
        (RANGE + b"2-6/99\r\n\r\n01234", Corrupt, "99 bytes now, but 100"),
        (RANGE + b"two\r\n\r\n01234", Corrupt, "sent others"),
        (b"HTTP/1.1 206 .\r\nContent-Length: 5\r\n\r\n01234", Corrupt, "sent others"),
        (RANGE.replace(b"5", b"9") + b"2-6/100\r\n\r\n012345678", Corrupt, "more bytes than requested"),
        (OK_HEAD + b"Content-Length: 7\r\n\r\n0123456", Corrupt, "7 bytes now"),
        (b"HTTP/1.1 204 .\r\n\r\n", Unreachable, "answered 204"),
        (OK_HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\n0", Unreachable, "compressed"),
        (b"nonsense", Unreachable, "was cut"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Unreachable, "the response is not HTTP/1.1"),
        (b"", Unreachable, "was cut"),
        (OK_HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n", Unreachable, "was cut"),
        (OK_HEAD + b"X: y\r\n" * 201 + b"\r\n{}", Unreachable, "was cut"),
        (OK_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", Unreachable, "was cut"),
        (RANGE + b"2-6/100\r\n\r\n012", Unreachable, "was cut: the body ended early"),
        (CHUNKED + b"2\r\n0", Unreachable, "was cut"),
        (CHUNKED + b"2\r\n01\r\n", Unreachable, "was cut"),
        (CHUNKED + b"two\r\n01\r\n0\r\n\r\n", Unreachable, "was cut"),
    ],
)
def test_an_answer_that_is_not_the_range_is_not_taken_for_it(
    answer: bytes, kind: type[LoraCliError], said: str
) -> None:
    with raw_server(answer) as endpoint, pytest.raises(kind, match=said):
        list(resumed(Http(endpoint, 2, Retries(0)), f"{endpoint}/x", Piece(2, 7, 100)))


@pytest.mark.parametrize(
    ("answers", "read"),
    [
        ((OK_HEAD + b"Connection: close\r\n\r\n0123456",), Corrupt),
        ((OK_HEAD + b"Connection: close\r\n\r\n012", RANGE.replace(b"5", b"2") + b"3-4/5\r\n\r\n34"), b"01234"),
        ((CHUNKED + b"2\r\n01\r\n3\r\n234\r\n0\r\n\r\n",), b"01234"),
    ],
    ids=["longer than listed", "ends early", "chunks"],
)
def test_a_body_without_a_length_is_read_to_the_listed_one(answers: tuple[bytes, ...], read: object) -> None:
    with raw_server(*answers) as endpoint:
        http = Http(endpoint, 2, Retries(1, lambda _: None))
        pieces = resumed(http, f"{endpoint}/x", Piece(0, None, 5))
        if read is Corrupt:
            with pytest.raises(Corrupt, match="more bytes than requested"):
                list(pieces)
        else:
            assert b"".join(pieces) == read
