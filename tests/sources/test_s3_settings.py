"""What a user sets for S3: certificates, profiles, processes that give credentials, variables."""

import os
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import DigestSource
from lora_cli.sources.aws import endpoint_for, find_account
from lora_cli.sources.registry import open_source
from tests.answering import Reply, answering
from tests.sources.certificates import localhost_certificate
from tests.sources.raw_servers import forget_environment
from tests.sources.s3_answers import CONTENT, REF, error_of, piece_of, read, source_at


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
        forget_environment()
        assert read(source_at(endpoint, tmp_path)) == CONTENT
        forget_environment()


def patient(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0)


def test_what_a_user_sets_is_in_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseHTTPRequestHandler] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request)
        return piece_of(request)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    with answering(reply) as endpoint:
        rule = SourceRule(match="s3://abc/*", endpoint_url=endpoint, region="eu-west-7", requester_pays=True)
        source = open_source("s3", patient(tmp_path), rule)
        assert isinstance(source, DigestSource)
        revision = source.resolve(REF)
        # It may have a checksum, which is asked for while a part of it is read, and comes along with all of it.
        assert source.reported_digests(revision, revision.files[0]) == {}
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


@pytest.mark.parametrize(("value", "sent"), [("requester", True), ("TRUE", True), ("no", False), (None, False)])
def test_a_variable_says_who_pays(value: str | None, sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("AWS_REQUEST_PAYER", value)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert find_account(os.environ).requester_pays is sent


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("sso_session = corp\nsso_account_id = 1\nsso_role_name = r", "aws sso login --profile team"),
        ("credential_process = sh -c 'echo hunter2 >&2; exit 1'", "the profile team has no credentials"),
        ("credential_process = echo hunter2", "the profile team has no credentials"),
        ("credential_process = /no/such/program", "the profile team has no credentials"),
        ("role_arn = arn:aws:iam::1:role/r\nsource_profile = none", "of the profile team is invalid"),
    ],
)
def test_a_profile_that_gives_nothing_says_why_without_what_its_process_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, says: str
) -> None:
    session = "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.awsapps.com/start\n"
    (tmp_path / "config").write_text(f"[profile team]\n{profile}\n{session}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    rule = SourceRule(match="s3://abc/*", endpoint_url="http://127.0.0.1:9", profile="team")
    source = open_source("s3", patient(tmp_path), rule)
    error = error_of(lambda: source.resolve(REF))
    assert isinstance(error, UsageError if "is invalid" in says else AccessDenied)
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
        rule = SourceRule(match="s3://abc/*", endpoint_url=endpoint, profile="team")
        assert read(open_source("s3", patient(tmp_path), rule)) == CONTENT
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


KEYS = {"AWS_ACCESS_KEY_ID": "AKIASOMEBODY", "AWS_SECRET_ACCESS_KEY": "hunter2"}


@pytest.mark.parametrize(
    ("variables", "config", "url", "endpoint"),
    [
        ({"AWS_REGION": "eu-west-1"}, "", "https://abc.s3.eu-west-1.amazonaws.com/x", ""),
        ({}, "region = eu-west-1", "https://abc.s3.eu-west-1.amazonaws.com/x", ""),
        ({}, "region = eu-west-1\ns3 =\n  addressing_style = path", "https://s3.eu-west-1.amazonaws.com/abc/x", ""),
        (
            {"AWS_REGION": "us-west-2", "AWS_USE_FIPS_ENDPOINT": "true"},
            "",
            "https://abc.s3-fips.us-west-2.amazonaws.com/x",
            "",
        ),
        (
            {"AWS_REGION": "us-west-2", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "",
            "https://abc.s3.dualstack.us-west-2.amazonaws.com/x",
            "",
        ),
        ({"AWS_ENDPOINT_URL": "https://minio.acme"}, "", "https://minio.acme/abc/x", "https://minio.acme"),
        (
            {"AWS_ENDPOINT_URL": "https://no.acme", "AWS_ENDPOINT_URL_S3": "https://minio.acme"},
            "s3 =\n  addressing_style = virtual",
            "https://abc.minio.acme/x",
            "https://minio.acme",
        ),
        ({}, "endpoint_url = https://minio.acme", "https://minio.acme/abc/x", "https://minio.acme"),
        (
            {},
            "services = here\n[services here]\ns3 =\n  endpoint_url = https://minio.acme",
            "https://minio.acme/abc/x",
            "https://minio.acme",
        ),
    ],
)
def test_the_endpoint_is_found_as_the_aws_tools_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], config: str, url: str, endpoint: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{config}\n")
    for name, value in {"AWS_CONFIG_FILE": str(tmp_path / "config"), **KEYS, **variables}.items():
        monkeypatch.setenv(name, value)
    account = find_account(os.environ)
    asked: list[str] = []

    def hear(request: AWSPreparedRequest, **_: object) -> None:
        asked.append(request.url)
        raise ConnectionError

    account.client.meta.events.register_first("before-send.s3", hear)
    with pytest.raises(ConnectionError):
        account.client.head_object(Bucket="abc", Key="x")
    assert asked == [url]
    assert (account.endpoint, endpoint_for(os.environ, None)) == (endpoint, endpoint)
