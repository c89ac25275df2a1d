"""What S3 answers when something is wrong there, from a server of a few lines: each its own message and exit code."""

import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lora_cli.core.manifest import SourceRule
from lora_cli.core.reference import AdapterRef
from lora_cli.errors import AccessDenied, LoraCliError, MachineError, NotFound, Refused, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import Source, TellingSource, route
from lora_cli.sources.registry import open_source
from tests.answering import Reply, answering
from tests.sources.certificates import localhost_certificate
from tests.sources.test_http import raw_server

REF = AdapterRef("s3", "abc/sql")
HEADERS = {"ETag": '"e"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}
CONTENT = bytes(range(256)) * 1000


def listing(keys: list[str], size: int = len(CONTENT), more: str = "") -> bytes:
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-24T12:00:00Z</LastModified><ETag>e</ETag>"
        f"<Size>{size}</Size></Contents>"
        for key in keys
    )
    return f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode()


def refusal(status: int, code: str, rest: str = "") -> Reply:
    return status, f"<Error><Code>{code}</Code><Message>it says</Message>{rest}</Error>".encode(), {}


def source_at(endpoint: str, tmp_path: Path, *, retries: int = 0, timeout_s: float = 5) -> Source:
    settings = Settings(tmp_path / "cache", timeout_s=timeout_s, retries=retries)
    return open_source("s3", settings, SourceRule("s3://abc/*", endpoint_url=endpoint, anonymous=True))


def error_of(call: Callable[[], object]) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (refusal(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), NotFound, "AWS_REGION=eu-west-1"),
        (refusal(301, "PermanentRedirect"), NotFound, "another region"),
        (refusal(400, "ExpiredToken"), AccessDenied, "aws sso login"),
        (refusal(403, "InvalidToken"), AccessDenied, "aws sso login"),
        (refusal(403, "RequestTimeTooSkewed"), MachineError, "clock"),
        (refusal(403, "AllAccessDisabled"), AccessDenied, "it says"),
        (refusal(404, "NoSuchBucket"), NotFound, "no bucket abc"),
        (refusal(404, "NoSuchWebsiteConfiguration"), NotFound, "NoSuchWebsiteConfiguration"),
        ((404, b"<html>login</html>", {}), NotFound, "AWS_ENDPOINT_URL"),
        (refusal(400, "InvalidArgument"), Unreachable, "InvalidArgument"),
        (refusal(503, "SlowDown"), Unreachable, "503"),
        (refusal(500, "InternalError"), Unreachable, "500"),
        ((429, b"", {}), Unreachable, "limits the rate"),
        ((200, b"<html>login</html>", {}), NotFound, "nothing below sql/"),
        ((200, b"\x00\xff", {}), Unreachable, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_answer_has_its_own_words(tmp_path: Path, reply: Reply, kind: type[LoraCliError], says: str) -> None:
    with answering(lambda _: reply) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
    assert type(error) is kind, error
    assert says in error.message + error.hint
    assert str(REF) in error.message
    assert "\n" not in error.message


def test_what_does_not_speak_http_is_told_from_a_server_that_is_down(tmp_path: Path) -> None:
    with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
    assert isinstance(error, Unreachable)
    assert "sent no answer of HTTP" in error.message
    assert "AWS_ENDPOINT_URL" in error.hint


def test_a_storm_is_waited_out_and_counted(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.command == "HEAD":
            # How long it asks to wait, and it does not say.
            return 503, b"", {}
        asked.append(request.path)
        return refusal(503, "SlowDown") if len(asked) < 3 else (200, listing(["sql/a"]), {})

    with answering(reply) as endpoint:
        assert "tried 2 times" in error_of(lambda: source_at(endpoint, tmp_path, retries=1).resolve(REF)).message
        assert [file.path for file in source_at(endpoint, tmp_path, retries=1).resolve(REF).files] == ["a"]
    assert len(asked) == 3


def test_a_listing_of_empty_pages_without_end_is_left(tmp_path: Path) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    with answering(lambda _: (200, listing([], more=more), {})) as endpoint:
        began = time.monotonic()
        error = error_of(lambda: source_at(endpoint, tmp_path, timeout_s=1).resolve(REF))
        assert time.monotonic() - began < 5
    assert isinstance(error, Unreachable)
    assert "listed nothing for 1 s" in error.message


def test_a_listing_of_the_same_page_without_end_is_refused_with_the_number(tmp_path: Path) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    page = listing([f"sql/{number}" for number in range(1000)], more=more)
    with answering(lambda _: (200, page, {})) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path, timeout_s=20).resolve(REF))
    assert isinstance(error, Refused)
    assert "10000" in error.message


def piece_of(request: BaseHTTPRequestHandler) -> Reply:
    """The one object of ``CONTENT``, whole or the range that was asked for."""
    if "list-type" in request.path:
        return 200, listing(["sql/a"]), {}
    asked = request.headers.get("Range", "")
    if not asked:
        return 200, CONTENT, HEADERS
    start, stop = (int(number) for number in asked.removeprefix("bytes=").split("-"))
    span = {"Content-Range": f"bytes {start}-{stop}/{len(CONTENT)}"}
    return 206, CONTENT[start : stop + 1], {**HEADERS, **span}


def read(source: Source, start: int = 0, stop: int | None = None) -> bytes:
    revision = source.resolve(REF)
    return b"".join(source.read(revision, revision.files[0], start, stop))


def test_a_server_that_ignores_ranges_is_read_from_the_right_offset(tmp_path: Path) -> None:
    def reply(request: BaseHTTPRequestHandler) -> Reply:
        return piece_of(request) if "list-type" in request.path else (200, CONTENT, HEADERS)

    with answering(reply) as endpoint:
        assert read(source_at(endpoint, tmp_path), 1000, 200_000) == CONTENT[1000:200_000]


@pytest.mark.parametrize("start", [0, 2], ids=["whole", "a range"])
def test_a_stream_that_is_cut_is_gone_on_with_where_it_was(tmp_path: Path, start: int) -> None:
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        status, body, headers = piece_of(request)
        if request.command == "GET" and "list-type" not in request.path:
            asked.append(request.headers.get("Range", ""))
            # The rest of what Content-Length promises never comes.
            request.close_connection = True
            return status, body[: max(65_536, len(body) // 2)], {**headers, "Content-Length": str(len(body))}
        return status, body, headers

    with answering(reply) as endpoint:
        assert read(source_at(endpoint, tmp_path, retries=1), start) == CONTENT[start:]
    assert len(asked) > 2
    assert asked[1].startswith(f"bytes={start + (len(CONTENT) - start) // 2}-")


@pytest.mark.parametrize("first_byte", [True, False])
@pytest.mark.parametrize("start", [0, 2], ids=["whole", "a range"])
def test_a_silent_server_is_left_after_the_timeout(tmp_path: Path, first_byte: bool, start: int) -> None:
    stop = threading.Event()

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if "list-type" in request.path:
            return piece_of(request)
        if first_byte:
            status, body, headers = piece_of(request)
            return status, body[:1], {**headers, "Content-Length": str(len(body))}
        stop.wait(30)
        return 500, b"", {}

    with answering(reply, keep=stop) as endpoint:
        source, began = source_at(endpoint, tmp_path, timeout_s=1), time.monotonic()
        error = error_of(lambda: read(source, start))
        spent = time.monotonic() - began
        stop.set()
    assert isinstance(error, Unreachable)
    assert "silent" in error.message
    assert spent < 8


@pytest.mark.parametrize("start", [0, 2], ids=["whole", "a range"])
def test_a_body_that_trickles_is_given_up(tmp_path: Path, start: int) -> None:
    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if "list-type" in request.path:
            return piece_of(request)
        status, body, headers = piece_of(request)
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        for number in range(100):
            request.wfile.write(body[number : number + 1])
            time.sleep(0.05)
        raise ConnectionError

    with answering(reply) as endpoint:
        error = error_of(lambda: read(source_at(endpoint, tmp_path, timeout_s=1), start))
    assert isinstance(error, Unreachable)
    assert "sent only" in error.message


def test_a_certificate_that_is_not_trusted_is_refused_and_trusted_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority, chain = localhost_certificate(tmp_path)
    context.load_cert_chain(chain)

    def secure(running: ThreadingHTTPServer) -> None:
        running.socket = context.wrap_socket(running.socket, server_side=True)

    with answering(piece_of, prepare=secure) as plain:
        endpoint = plain.replace("http://127.0.0.1", "https://localhost")
        error = error_of(lambda: source_at(endpoint, tmp_path, retries=3).resolve(REF))
        assert isinstance(error, Unreachable)
        assert "is not trusted" in error.message
        assert "tried" not in error.message
        assert "SSL_CERT_FILE" in error.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        # A process looks there once; an earlier test may have done so.
        route.tls.cache_clear()
        assert read(source_at(endpoint, tmp_path)) == CONTENT
        route.tls.cache_clear()


def test_what_a_user_sets_is_in_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseHTTPRequestHandler] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request)
        return piece_of(request)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    with answering(reply) as endpoint:
        rule = SourceRule("s3://abc/*", endpoint_url=endpoint, region="eu-west-7", requester_pays=True)
        source = open_source("s3", Settings(tmp_path / "cache", timeout_s=5, retries=0), rule)
        assert isinstance(source, TellingSource)
        revision = source.resolve(REF)
        # It may have a checksum, which is asked for while a part of it is read, and comes along with all of it.
        assert source.told(revision, revision.files[0]) == {}
        assert read(source, 0, 1000) == CONTENT[:1000]
        assert read(source) == CONTENT
    assert {request.command for request in seen} == {"GET", "HEAD"}
    objects = [request for request in seen if "list-type" not in request.path]
    assert [request.headers["If-Match"] for request in objects] == ['"e"'] * 3
    for request in seen:
        assert "/eu-west-7/s3/aws4_request" in request.headers["Authorization"]
        assert request.headers["x-amz-security-token"] == "session"
        assert request.headers["x-amz-request-payer"] == "requester"
        assert not any("hunter2" in value for value in request.headers.values())


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("sso_session = corp\nsso_account_id = 1\nsso_role_name = r", "aws sso login --profile team"),
        ("credential_process = sh -c 'echo hunter2 >&2; exit 1'", "the profile team gives no credentials"),
        ("credential_process = echo hunter2", "the profile team gives no credentials"),
        ("credential_process = /no/such/program", "the profile team gives no credentials"),
        ("role_arn = arn:aws:iam::1:role/r\nsource_profile = none", "of the profile team is wrong"),
    ],
)
def test_a_profile_that_gives_nothing_says_why_without_what_its_process_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, says: str
) -> None:
    session = "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.awsapps.com/start\n"
    (tmp_path / "config").write_text(f"[profile team]\n{profile}\n{session}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    rule = SourceRule("s3://abc/*", endpoint_url="http://127.0.0.1:9", profile="team")
    source = open_source("s3", Settings(tmp_path / "cache", timeout_s=5, retries=0), rule)
    error = error_of(lambda: source.resolve(REF))
    assert isinstance(error, UsageError if "is wrong" in says else AccessDenied)
    assert says in error.message + error.hint
    assert "hunter2" not in error.message + error.hint


def test_what_a_credential_process_prints_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = '{"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "s", "Expiration": "2099-01-01T00:00:00Z"}'
    (tmp_path / "keys.json").write_text(keys)
    (tmp_path / "config").write_text(f"[profile team]\ncredential_process = cat {tmp_path / 'keys.json'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    seen: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request.headers.get("Authorization", ""))
        return piece_of(request)

    with answering(reply) as endpoint:
        rule = SourceRule("s3://abc/*", endpoint_url=endpoint, profile="team")
        assert read(open_source("s3", Settings(tmp_path / "cache", timeout_s=5, retries=0), rule)) == CONTENT
    assert all("AKIAPROCESS" in authorization for authorization in seen)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_ENDPOINT_URL", "minio.acme.internal"),
        ("AWS_ENDPOINT_URL_S3", "http://me:hunter2@127.0.0.1:9"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:99999"),
        ("AWS_ENDPOINT", "s3://hunter2"),
        ("AWS_REGION", "not a region"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv(variable, value)
    source = open_source("s3", Settings(tmp_path / "cache", timeout_s=5, retries=0))
    error = error_of(lambda: source.resolve(REF))
    assert isinstance(error, UsageError)
    assert variable in error.message
    assert value not in error.message + error.hint
