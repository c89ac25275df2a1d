"""What a bucket's server answers when something is wrong there, from one of a few lines, and what becomes of it."""

from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.errors import AccessDenied, LoraCliError, MachineError, NotFound, Refused, Unreachable
from tests.answering import Reply, answering
from tests.sources.asking import error_of
from tests.sources.buckets import CONTENT, LISTED, REF, listing, piece_of, read, source_at

MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")


def refusal(status: int, code: str) -> Reply:
    return status, f"<Error><Code>{code}</Code><Message>it says</Message></Error>".encode(), {}


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        ((301, b"", {}), NotFound, "another region"),
        (refusal(400, "ExpiredToken"), AccessDenied, "aws sso login"),
        (refusal(403, "RequestTimeTooSkewed"), MachineError, "clock"),
        (refusal(403, "AllAccessDisabled"), AccessDenied, "it says"),
        ((200, b"<html>console</html>", {}), NotFound, "AWS_ENDPOINT_URL"),
        (refusal(400, "InvalidArgument"), Unreachable, "answered 400 InvalidArgument it says"),
        (refusal(503, "SlowDown"), Unreachable, "503"),
        ((429, b"", {}), Unreachable, "limits the rate"),
        ((200, listing(["sql/a"])[:-30], {}), Unreachable, "sent no whole answer"),
        ((200, listing(["sql/b//c"]), {}), Refused, "not a valid file path"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_answer_has_its_own_words(tmp_path: Path, reply: Reply, kind: type[LoraCliError], says: str) -> None:
    with answering(lambda _: reply) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
    assert isinstance(error, kind), error
    assert says in error.message + error.hint
    assert str(REF) in error.message
    assert "\n" not in error.message


def test_a_bucket_of_another_region_is_asked_there_from_then_on(tmp_path: Path) -> None:
    from botocore.session import Session

    regions: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.command == "HEAD":
            return 403, b"", {"x-amz-bucket-region": "eu-west-1"}
        regions.append(request.headers["Authorization"].split("/")[2])
        return piece_of(request) if regions[-1] == "eu-west-1" else refusal(301, "PermanentRedirect")

    with answering(reply) as endpoint:
        assert read(source_at(endpoint, tmp_path, region="us-east-1")) == CONTENT
        ours, regions = regions, []
        client = Session().create_client("s3", "us-east-1", endpoint_url=endpoint)
        assert client.get_object(Bucket="abc", Key="sql/a")["Body"].read() == CONTENT
    assert ours == [*regions, "eu-west-1"] == ["us-east-1", "eu-west-1", "eu-west-1"]


def test_what_a_user_sets_is_in_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseHTTPRequestHandler] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request)
        return piece_of(request)

    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    with answering(reply) as endpoint:
        source = source_at(endpoint, tmp_path, region="eu-west-7")
        assert read(source, 0, 1000) == CONTENT[:1000]
        assert read(source) == CONTENT
    assert [request.headers["If-Match"] for request in seen if "list-type" not in request.path] == ['"e"'] * 2
    for request in seen:
        assert "AKIASOMEBODY" in request.headers["Authorization"]
        assert "/eu-west-7/s3/aws4_request" in request.headers["Authorization"]
        assert request.headers["x-amz-security-token"] == "session"
        assert request.headers["x-amz-request-payer"] == "requester"
        assert not any("hunter2" in value for value in request.headers.values())


def test_a_listing_without_end_is_refused_with_the_number(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        asked.append(request.path)
        keys = [f"sql/{len(asked)}-{number}" for number in range(2500)]
        return 200, listing(keys, MORE.format(f"{len(asked)}/+=&amp;ż")), {}

    with answering(reply) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
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
