"""The HTTP client on a bad day: what it tries again, how long it waits, what it never follows or reads."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.errors import Refused, Unreachable
from lora_cli.sources import http_json
from lora_cli.sources.http import Http, Piece, StatusError, get_bytes
from lora_cli.sources.http_json import get_json
from lora_cli.sources.retries import Retries, backoff_s, requested_wait_s
from tests.hub_server import Hub
from tests.sources.http_client import NAME, WEIGHTS, Client


@pytest.fixture
def client(hub: Hub) -> Client:
    hub.add("acme/sql-lora", {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": "{}"})
    return Client(hub)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("place", ["/revision/", "/resolve/", "GET cdn"])
def test_a_storm_is_waited_out(client: Client, status: int, place: str) -> None:
    client.hub.fault(place, status=status, times=3)
    assert client.json()
    assert client.read() == WEIGHTS
    assert len(client.waits) == 3
    assert client.waits[0] <= 0.5 < client.waits[2] <= 2


def test_a_storm_that_does_not_end_is_given_up_after_the_retries(client: Client) -> None:
    client.hub.fault("", status=503, times=-1)
    error = client.fails()
    assert isinstance(error, Unreachable)
    assert "answered 503 (tried 6 times)" in str(error)
    assert len(client.waits) == 5
    assert client.hub.count() == 6


def test_without_retries_nothing_is_tried_twice(hub: Hub, client: Client) -> None:
    hub.fault("", status=503, times=-1)
    assert isinstance(Client(hub, retries=0).fails(), Unreachable)
    assert hub.count() == 1


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 55),
        ({"RateLimit": '"resolvers";r=0; t = 7'}, 7),
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": "12", "RateLimit": '"api";r=0;t=30'}, 30),
    ],
)
def test_what_the_server_asks_is_what_is_waited(client: Client, headers: dict[str, str], least: float) -> None:
    client.hub.fault("/revision/", status=429, headers=headers)
    assert client.json()
    assert least <= client.waits[0] <= least * 1.1 + 0.2


def test_a_date_that_is_too_far_away_is_not_waited_for(client: Client) -> None:
    in_an_hour = formatdate(time.time() + 3600, usegmt=True)
    client.hub.fault("/revision/", status=429, headers={"Retry-After": in_an_hour})
    with pytest.raises(Unreachable, match=r"requests a wait of 3\d\d\d s"):
        client.json()


def test_it_really_waits(hub: Hub, client: Client) -> None:
    hub.fault("/revision/", status=429, headers={"Retry-After": "1"})
    get_json(Http(hub.endpoint, 5, Retries(1)), f"{hub.endpoint}/api/models/acme/sql-lora/revision/main", "info")
    assert hub.requests[1].at - hub.requests[0].at >= 1


def test_a_rate_limit_names_the_token_that_would_help(client: Client) -> None:
    client.hub.fault("", status=429, times=-1)
    assert "HF_TOKEN" in client.fails().hint


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
    client.hub.fault("GET cdn", ignore_range=True, times=-1)
    assert client.read(300_000, 300_010) == WEIGHTS[300_000:300_010]
    assert client.read(300_000) == WEIGHTS[300_000:]
    assert client.read(5, 10, size=None) == WEIGHTS[5:10]
    assert client.read(len(WEIGHTS) - 1, len(WEIGHTS)) == WEIGHTS[-1:]


def test_a_server_that_ignores_the_range_after_a_cut_is_read_from_the_right_offset(client: Client) -> None:
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


@pytest.mark.slow
def test_a_stall_ends_after_the_timeout(hub: Hub, client: Client) -> None:
    hub.fault("GET cdn", stall_at=70_000)
    began = time.monotonic()
    impatient = Client(hub, timeout_s=0.3)
    assert impatient.read() == WEIGHTS
    assert len(impatient.waits) == 1
    assert 0.3 <= time.monotonic() - began < 2


def test_a_silent_server_is_called_silent(hub: Hub, client: Client) -> None:
    hub.fault("", delay_s=30, times=-1)
    with pytest.raises(Unreachable, match=r"sent no data for 0\.2 s"):
        Client(hub, retries=0, timeout_s=0.2).read()


@pytest.mark.slow
def test_a_body_that_trickles_is_given_up(hub: Hub, client: Client) -> None:
    hub.fault("GET cdn", drip_s=0.02, times=-1)
    with pytest.raises(Unreachable, match=r"sent only \d+ bytes"):
        Client(hub, retries=0, timeout_s=0.5).read()
    hub.fault("/revision/", drip_s=0.02, times=-1)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"sent only \d+ bytes|did not finish"):
        Client(hub, retries=0, timeout_s=0.5).json()
    # What is left of a short body is not waited for byte by byte.
    assert time.monotonic() - began < 3


def test_a_slow_reader_is_not_taken_for_a_slow_server(hub: Hub, client: Client) -> None:
    pieces = get_bytes(Client(hub, timeout_s=0.2).http, f"{hub.endpoint}/{NAME}", Piece(0, None, len(WEIGHTS)), "w")
    read = next(pieces)
    time.sleep(0.5)
    assert read + b"".join(pieces) == WEIGHTS
    assert hub.count("GET cdn") == 1


@pytest.mark.parametrize(
    "body", ["", "{", "[1,", "<html>login</html>", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\x00"]
)
def test_what_is_not_json_is_tried_again_and_then_said(hub: Hub, client: Client, body: str) -> None:
    hub.fault("/revision/", status=200, body=body)
    assert client.json()
    assert len(client.waits) == 1
    hub.fault("/revision/", status=200, body=body, times=-1)
    with pytest.raises(Unreachable, match="not JSON"):
        client.json()


def test_json_cut_in_the_middle_is_tried_again(client: Client) -> None:
    client.hub.fault("/revision/", cut_at=20)
    assert client.json()
    assert len(client.waits) == 1


def test_json_without_end_is_not_read_to_its_end(client: Client) -> None:
    client.hub.fault("/revision/", status=200, body=" " * (2 * 1024 * 1024 + 1))
    with pytest.raises(Refused, match="larger than 2097152 bytes"):
        client.json()


@pytest.mark.parametrize("body", [b'[{"a": 1}, {"a": 2}]', b"[[1], [2]]", b'{"a": {"b": {}}}', b"[1, 2, 3]"])
def test_json_of_too_many_values_is_not_built(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_json, "MOST_NESTED", 3 if b"3" in body else 2)
    monkeypatch.setattr(http_json, "MOST_VALUES", 1 if b"3" in body else 9)
    with pytest.raises(http_json.TooLarge):
        http_json.parse_json([body], pytest.fail)
    monkeypatch.setattr(http_json, "MOST_NESTED", 3)
    monkeypatch.setattr(http_json, "MOST_VALUES", 2)
    assert http_json.parse_json([body[:5], body[5:]], lambda value: value) == json.loads(body)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "SSL_CERT_FILE"])
def test_an_environment_that_cannot_be_used_is_said_without_its_password(name: str) -> None:
    program = """
from lora_cli.errors import UsageError
from lora_cli.sources.http_json import *
from lora_cli.sources.retries import Retries
try:
    get_json(Http("http://127.0.0.1:9", 5, Retries(0)), "http://127.0.0.1:9", "")
except UsageError as error:
    print(error)
"""
    value = {"HTTP_PROXY": "gopher://me:secret@proxy:1", "SSL_CERT_FILE": "/nowhere/secret.pem"}[name]
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env={name: value}, capture_output=True, text=True, check=True)
    assert "cannot be used" in done.stdout
    assert "secret" not in done.stdout


@given(st.dictionaries(st.sampled_from(["RateLimit", "Retry-After"]), st.text(max_size=40)))
def test_no_header_of_a_server_is_an_error_of_ours(headers: dict[str, str]) -> None:
    asked = requested_wait_s(headers)
    assert asked is None or asked >= 0


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1e9))
def test_a_pause_is_bounded_and_never_shorter_than_asked(failures: int, asked_s: float | None) -> None:
    pause = backoff_s(failures, asked_s)
    if asked_s is not None and asked_s > 330:
        assert pause is None
    else:
        assert pause is not None
        assert (asked_s or 0.25) <= pause <= 370
