"""What S3 answers when something is wrong there, from a server of a few lines: each its own message and exit code."""

import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, LoraCliError, MachineError, NotFound, Refused, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from tests.answering import Reply, answering
from tests.sources.raw_servers import raw_server
from tests.sources.s3_answers import CONTENT, HEADERS, REF, error_of, listing, piece_of, read, refusal, source_at


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (refusal(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), NotFound, "AWS_REGION=eu-west-1"),
        (refusal(301, "PermanentRedirect"), NotFound, "another region"),
        ((301, b"", {"x-amz-bucket-region": "eu-west-1"}), NotFound, "AWS_REGION=eu-west-1"),
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
        ((200, b"<html>login</html>", {}), Unreachable, "sent no listing"),
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


@pytest.mark.parametrize(
    "elsewhere",
    [
        refusal(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
        (301, b"<Error><Code>PermanentRedirect</Code></Error>", {"x-amz-bucket-region": "eu-west-1"}),
    ],
    ids=["said in the body", "said in a header"],
)
def test_a_bucket_of_another_region_is_asked_there_from_then_on(
    tmp_path: Path, elsewhere: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    regions: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        regions.append(request.headers["Authorization"].split("/")[2])
        return piece_of(request) if regions[-1] == "eu-west-1" else elsewhere

    with answering(reply) as endpoint:
        settings = Settings(tmp_path / "cache", timeout_s=5, retries=0)
        rule = SourceRule(match="s3://abc/*", endpoint_url=endpoint, region="us-east-1")
        assert read(open_source("s3", settings, rule)) == CONTENT
    assert regions == ["us-east-1", "eu-west-1", "eu-west-1"]


def test_what_does_not_speak_http_is_told_from_a_server_that_is_down(tmp_path: Path) -> None:
    with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
    assert isinstance(error, Unreachable)
    assert "the response is not HTTP/1.1" in error.message
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


@pytest.mark.slow
def test_a_listing_of_the_same_page_without_end_is_refused_with_the_number(tmp_path: Path) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    page = listing([f"sql/{number}" for number in range(1000)], more=more)
    with answering(lambda _: (200, page, {})) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path, timeout_s=20).resolve(REF))
    assert isinstance(error, Refused)
    assert "10000" in error.message


def test_an_object_with_headers_that_botocore_cannot_read_is_read_by_its_etag(tmp_path: Path) -> None:
    def reply(request: BaseHTTPRequestHandler) -> Reply:
        status, body, headers = piece_of(request)
        return status, body, {**headers, "Last-Modified": "yesterday", "x-amz-mp-parts-count": "many"}

    with answering(reply) as endpoint:
        assert read(source_at(endpoint, tmp_path)) == CONTENT
        assert read(source_at(endpoint, tmp_path), 5, 1000) == CONTENT[5:1000]


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


@pytest.mark.slow
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
    assert "sent no data" in error.message
    assert spent < 8
