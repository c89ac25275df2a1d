"""Buckets, beyond the contract: keys and folders, who is not let in, and what a server says when something is wrong."""

import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli import errors
from lora_cli.errors import AccessDenied, NotFound, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from tests.answering import Reply, answering
from tests.object_servers import READER, S3Server
from tests.sources.asking import Kind, Patch, content, error_of
from tests.sources.buckets import CONFIG, CONTENT, REF, at, listing, piece_of, read, source_at


@pytest.fixture
def server(seaweed_server: S3Server, monkeypatch: Patch) -> S3Server:
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    return seaweed_server


@pytest.fixture
def bucket(server: S3Server) -> str:
    """A folder in a bucket, which serves as well."""
    return server.place()


@pytest.fixture
def source(server: S3Server, settings: Settings) -> Source:
    return open_source("s3", settings)


def test_a_folder_has_what_is_below_it_but_neither_its_neighbours_nor_what_stands_for_folders(
    server: S3Server, source: Source
) -> None:
    bucket = server.bucket()
    assert isinstance(error_of(lambda: source.resolve(at(bucket, ""))), NotFound)
    folders = {"sql/": b"", "sql/sub/": b"", "sql/sub/x.json": b"{}", "sql/none": b""}
    server.put(bucket, {f"sql/{CONFIG}": b"1", f"sql-10/{CONFIG}": b"10", "sql.json": b"x", **folders})
    revision = source.resolve(at(bucket))
    assert [file.path for file in revision.files] == [CONFIG, "none", "sub/x.json"]
    assert content(source, revision, CONFIG) == b"1"
    assert f"sql-10/{CONFIG}" in {file.path for file in source.resolve(at(bucket, "")).files}


@pytest.mark.parametrize("key", ["x %41+&ż#?=@v1", "a*b[c]", "tab'q\"d", "trailing.", "a%2Fb"])
def test_a_key_is_taken_as_it_stands(server: S3Server, bucket: str, source: Source, key: str) -> None:
    server.put(bucket, {f"{key}/{CONFIG}": key.encode(), f"{key} 2/{CONFIG}": b"another"})
    assert content(source, source.resolve(at(bucket, key)), CONFIG) == key.encode()


def test_a_forked_process_is_refused(server: S3Server, bucket: str, settings: Settings, source: Source) -> None:
    server.put(bucket, {f"sql/{CONFIG}": b"{}"})
    revision = source.resolve(at(bucket))
    child = os.fork()
    if not child:
        codes = []
        for asked in (source, open_source("s3", settings)):
            try:
                asked.resolve(at(bucket))
            except errors.MachineError as error:
                codes.append(error.exit_code)
        os._exit(0 if codes == [6, 6] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert content(source, revision, CONFIG) == b"{}"


KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
REFUSALS: tuple[tuple[dict[str, str], Kind, str, str], ...] = (
    ({"AWS_SECRET_ACCESS_KEY": "hunter2-hunter2"}, AccessDenied, "not accept the credentials", "aws sts"),
    (dict(zip(KEYS, READER, strict=True)), AccessDenied, f"denies access with the credentials from {KEYS[0]}", "s3:L"),
    ({"AWS_SKIP_SIGNATURE": "true"}, AccessDenied, "denies access without", "unset AWS_SKIP_SIGNATURE"),
    ({"AWS_ACCESS_KEY_ID": ""}, AccessDenied, "no AWS credentials were found", "AWS_PROFILE"),
    ({"AWS_ACCESS_KEY_ID": "", "AWS_PROFILE": "nobody"}, UsageError, "the profile nobody", "list-profiles"),
    ({"AWS_CA_BUNDLE": "/no/such/file"}, UsageError, "cannot be opened", "AWS_CA_BUNDLE"),
    ({"AWS_ENDPOINT_URL_S3": "http://me:hunter2@127.0.0.1:9"}, UsageError, "AWS_ENDPOINT_URL_S3: ", ""),
    ({"AWS_REGION": "not a region"}, UsageError, "AWS_REGION: this is not the name of a region", "eu-west-1"),
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, Unreachable, "no connection to 127.0.0.1:9", "AWS_ENDPOINT_URL"),
    ({}, NotFound, "there is no bucket no-such-bucket", "AWS_ENDPOINT_URL"),
)


@pytest.mark.parametrize(("changed", "kind", "says", "hint"), REFUSALS, ids=lambda value: str(value)[:40])
def test_each_refusal_says_what_is_wrong_and_no_secret(
    bucket: str, settings: Settings, monkeypatch: Patch, changed: dict[str, str], kind: Kind, says: str, hint: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    error = error_of(lambda: open_source("s3", settings).resolve(at(bucket if changed else "no-such-bucket")))
    assert type(error) is kind
    assert says in error.message
    assert hint in error.hint
    for secret in ("hunter2", "testsecret", *READER):
        assert secret not in error.message + error.hint


@pytest.fixture(autouse=True)
def _keys(monkeypatch: Patch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")


def refusal(status: int, code: str) -> Reply:
    return status, f"<Error><Code>{code}</Code><Message>it says</Message></Error>".encode(), {}


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        ((301, b"", {}), NotFound, "another region"),
        (refusal(400, "ExpiredToken"), AccessDenied, "aws sso login"),
        (refusal(403, "RequestTimeTooSkewed"), errors.MachineError, "clock"),
        ((200, b"<html>console</html>", {}), NotFound, "AWS_ENDPOINT_URL"),
        (refusal(400, "InvalidArgument"), Unreachable, "answered 400 InvalidArgument it says"),
        (refusal(503, "SlowDown"), Unreachable, "503"),
        ((429, b"", {}), Unreachable, "limits the rate"),
        ((200, listing(["sql/a"])[:-30], {}), Unreachable, "sent no whole answer"),
        ((200, listing(["sql/b//c"]), {}), errors.Refused, "not a valid file path"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_answer_has_its_own_words(tmp_path: Path, reply: Reply, kind: Kind, says: str) -> None:
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


def test_what_a_user_sets_is_in_every_request(tmp_path: Path, monkeypatch: Patch) -> None:
    seen: list[BaseHTTPRequestHandler] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request)
        return piece_of(request)

    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    with answering(reply) as endpoint:
        source = source_at(endpoint, tmp_path, region="eu-west-7")
        assert read(source, 0, 1000) == CONTENT[:1000]
        assert read(source) == CONTENT
    files = [request.headers for request in seen if "list-type" not in request.path]
    assert [(one["If-Match"], one["Range"]) for one in files] == [('"e"', "bytes=0-999"), ('"e"', None)]
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
        more = "<IsTruncated>true</IsTruncated><NextContinuationToken>/+=&amp;ż</NextContinuationToken>"
        return 200, listing(keys, more), {}

    with answering(reply) as endpoint:
        error = error_of(lambda: source_at(endpoint, tmp_path).resolve(REF))
    assert isinstance(error, errors.Refused)
    assert "over 10000 entries" in error.message
    assert "continuation-token=%2F%2B%3D%26%C5%BC" in asked[1]
