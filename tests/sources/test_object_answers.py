"""What a bucket's server answers when something is wrong there, from one of a few lines, and what becomes of it."""

import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, LoraCliError, MachineError, NotFound, Refused, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from tests.answering import Reply, answering
from tests.sources.buckets import CONTENT, LISTED, REF, error_of, listing, piece_of, read, refusal, source_at
from tests.sources.raw_servers import raw_server

MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")


def ours(endpoint: str, **rule: object) -> SourceRule:
    return SourceRule.model_validate({"match": "s3://abc/*", "endpoint_url": endpoint, **rule})


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
        ((200, b"<html>console</html>", {}), NotFound, "AWS_ENDPOINT_URL"),
        (refusal(400, "InvalidArgument"), Unreachable, "InvalidArgument"),
        (refusal(503, "SlowDown"), Unreachable, "503"),
        (refusal(500, "InternalError"), Unreachable, "500"),
        ((429, b"", {}), Unreachable, "limits the rate"),
        ((200, listing(["sql/a"])[:-30], {}), Unreachable, "sent no listing"),
        ((200, listing(["sql/a"]).replace(b"<Size>", b"<Size>-"), {}), Unreachable, "sent no listing"),
        ((200, listing(["sql/b//c"]), {}), Refused, "not a valid file path"),
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


@pytest.mark.parametrize("ref", [AdapterRef("gs", "abc/sql"), AdapterRef("az", "abc@acme.dfs.core.windows.net/sql")])
def test_only_buckets_of_s3_are_in_another_region(tmp_path: Path, ref: AdapterRef) -> None:
    with answering(lambda _: (302, b"", {})) as endpoint:
        rule = SourceRule(match="*", endpoint_url=endpoint, anonymous=True)
        error = error_of(lambda: open_source(ref.scheme, Settings(tmp_path, retries=0), rule).resolve(ref))
    assert isinstance(error, Unreachable)
    assert "region" not in f"{error.message} {error.hint}".lower()


def test_what_does_not_speak_http_is_told_from_a_server_that_is_down(tmp_path: Path) -> None:
    with raw_server(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
    assert isinstance(error, Unreachable)
    assert "communication with 127.0.0.1" in error.message
    assert "AWS_ENDPOINT_URL" in error.hint


@pytest.mark.parametrize(
    ("elsewhere", "told"),
    [
        (refusal(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), {}),
        (refusal(301, "PermanentRedirect"), {"x-amz-bucket-region": "eu-west-1"}),
    ],
    ids=["said in the answer", "said to a HEAD"],
)
def test_a_bucket_of_another_region_is_asked_there_from_then_on(
    tmp_path: Path, elsewhere: Reply, told: dict[str, str]
) -> None:
    regions: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.command == "HEAD":
            assert "Authorization" not in request.headers
            return 403, b"", told
        regions.append(request.headers["Authorization"].split("/")[2])
        return piece_of(request) if regions[-1] == "eu-west-1" else elsewhere

    with answering(reply) as endpoint:
        rule = ours(endpoint, region="us-east-1")
        assert read(open_source("s3", Settings(tmp_path, timeout_s=5, retries=0), rule)) == CONTENT
    assert regions == ["us-east-1", "eu-west-1", "eu-west-1"]


def test_what_a_user_sets_is_in_every_request(tmp_path: Path) -> None:
    seen: list[BaseHTTPRequestHandler] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request)
        return piece_of(request)

    with answering(reply) as endpoint:
        rule = ours(endpoint, region="eu-west-7", requester_pays=True)
        source = open_source("s3", Settings(tmp_path, timeout_s=5, retries=0), rule)
        assert read(source, 0, 1000) == CONTENT[:1000]
        assert read(source) == CONTENT
    objects = [request for request in seen if "list-type" not in request.path]
    assert [request.headers["If-Match"] for request in objects] == ['"e"'] * 2
    for request in seen:
        assert "AKIASOMEBODY" in request.headers["Authorization"]
        assert "/eu-west-7/s3/aws4_request" in request.headers["Authorization"]
        assert request.headers["x-amz-security-token"] == "session"
        assert request.headers["x-amz-request-payer"] == "requester"
        assert not any("hunter2" in value for value in request.headers.values())


@pytest.mark.parametrize(("value", "sent"), [("requester", "requester"), ("true", "requester"), ("false", None)])
def test_a_variable_says_who_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, sent: str | None
) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", value)
    seen: list[str | None] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request.headers.get("x-amz-request-payer"))
        return piece_of(request)

    with answering(reply) as endpoint:
        assert read(open_source("s3", Settings(tmp_path, timeout_s=5, retries=0), ours(endpoint))) == CONTENT
    assert seen == [sent, sent]


def test_a_storm_is_waited_out_and_counted(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        asked.append(request.path)
        return refusal(503, "SlowDown") if len(asked) < 3 else (200, listing(["sql/a"]), {})

    with answering(reply) as endpoint:
        assert "tried 2 times" in error_of(lambda: source_at(endpoint, tmp_path, retries=1).resolve(REF)).message
        assert [file.path for file in source_at(endpoint, tmp_path, retries=1).resolve(REF).files] == ["a"]
    assert len(asked) == 3


@pytest.mark.parametrize("size", [1000, 2500])
def test_a_listing_without_end_is_refused_with_the_number(tmp_path: Path, size: int) -> None:
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        asked.append(request.path)
        keys = [f"sql/{len(asked)}-{number}" for number in range(size)]
        return 200, listing(keys, more=MORE.format(f"{len(asked)}/+=&amp;ż")), {}

    with answering(reply) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path, timeout_s=20).resolve(REF))
    assert isinstance(error, Refused)
    assert "over 10000 entries" in error.message
    assert "continuation-token=1%2F%2B%3D%26%C5%BC" in asked[1]


@pytest.mark.parametrize(
    ("entry", "version"),
    [
        (LISTED, "etag:e"),
        (LISTED.replace(">e<", ">W/&quot;e&quot;<"), "etag:e"),
        (LISTED.replace("<ETag>e</ETag>", ""), "time:2026-11-24T12:00:00+00:00"),
    ],
)
def test_an_object_is_pinned_to_its_etag_else_to_its_time(tmp_path: Path, entry: str, version: str) -> None:
    body = listing(["sql/a"]).replace(LISTED.encode(), entry.encode())
    with answering(lambda _: (200, body, {})) as endpoint:
        assert [file.version for file in source_at(endpoint, tmp_path).resolve(REF).files] == [version]


def test_a_server_that_ignores_ranges_is_read_from_the_right_offset(tmp_path: Path) -> None:
    def reply(request: BaseHTTPRequestHandler) -> Reply:
        del request.headers["Range"]
        return piece_of(request)

    with answering(reply) as endpoint:
        assert read(source_at(endpoint, tmp_path), 1000, 200_000) == CONTENT[1000:200_000]


@pytest.mark.parametrize("start", [0, 2], ids=["whole", "a range"])
def test_a_stream_that_is_cut_is_gone_on_with_where_it_was(tmp_path: Path, start: int) -> None:
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        status, body, headers = piece_of(request)
        if "list-type" in request.path:
            return status, body, headers
        asked.append(request.headers.get("Range", ""))
        # The rest of what Content-Length promises never comes.
        request.close_connection = True
        return status, body[: max(65_536, len(body) // 2)], {**headers, "Content-Length": str(len(body))}

    with answering(reply) as endpoint:
        assert read(source_at(endpoint, tmp_path, retries=1), start) == CONTENT[start:]
    assert asked[1].startswith(f"bytes={start + (len(CONTENT) - start) // 2}-")


@pytest.mark.slow
@pytest.mark.parametrize("first_byte", [True, False])
def test_a_silent_server_is_left_after_the_timeout(tmp_path: Path, first_byte: bool) -> None:
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
        error = error_of(lambda: read(source))
        spent = time.monotonic() - began
        stop.set()
    assert isinstance(error, Unreachable)
    assert "sent no data for 1 s" in error.message
    assert spent < 8


def test_the_words_of_a_server_hold_no_signed_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2021-08-06&sig=wrongSignatureOfAlice")
    for reply in ((400, b"", {}), (200, b"<EnumerationResults>", {}), (307, b"", {"Location": "http://127.0.0.1:9/x"})):
        with answering(lambda _, reply=reply: reply) as endpoint:  # type: ignore[misc]
            monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
            source = open_source("az", Settings(tmp_path, timeout_s=5, retries=0))
            error = error_of(lambda: source.resolve(AdapterRef("az", "loras/sql")))  # noqa: B023 - called at once
        assert "OfAlice" not in error.message + error.hint
