"""Which source a reference is read from, and how a manifest says that it is reached."""

import logging
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef, parse
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import Unreachable
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources, open_source
from tests.object_servers import S3Server

CONFIG = "adapter_config.json"
HF = AdapterRef("hf", "acme/sql")


@pytest.fixture
def profiles(
    seaweed_server: S3Server, rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for name, server in (("one", seaweed_server), ("two", rclone_server)):
        key, secret = server.keys
        lines.append(f"[{name}]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")
    (tmp_path / "credentials").write_text("".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.usefixtures("profiles")
def test_one_run_reads_from_servers_that_have_nothing_in_common(
    seaweed_server: S3Server, rclone_server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    buckets = {server.endpoint: server.bucket() for server in (seaweed_server, rclone_server)}
    rules = []
    for server, profile in ((seaweed_server, "one"), (rclone_server, "two")):
        bucket = buckets[server.endpoint]
        server.put(bucket, {f"sql/{CONFIG}": server.endpoint.encode()})
        rules.append(
            SourceRule(match=f"s3://{bucket}/*", endpoint_url=server.endpoint, region="eu-west-1", profile=profile)
        )
    reached = Sources(replace(settings, sources=tuple(rules)))
    for endpoint, bucket in buckets.items():
        ref = AdapterRef("s3", f"{bucket}/sql")
        revision = reached.of(ref).resolve(ref)
        assert b"".join(reached.of(ref).read(revision, revision.files[0], 0, None)) == endpoint.encode()
        assert reached.of(ref) is reached.of(AdapterRef("s3", f"{bucket}/other"))


def test_an_anonymous_rule_wins_over_the_keys_in_the_environment(
    seaweed_server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.object_servers import OPEN_BUCKET

    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    seaweed_server.put(OPEN_BUCKET, {f"rule/{CONFIG}": b"{}"})
    source = open_source("s3", settings, SourceRule(match=f"s3://{OPEN_BUCKET}/*", anonymous=True))
    assert [file.path for file in source.resolve(AdapterRef("s3", f"{OPEN_BUCKET}/rule")).files] == [CONFIG]


@pytest.mark.parametrize(
    "text", ["hf://acme/sql", "https://no.invalid/a", "s3://acme/a", "az://acme/a", "oci://no.invalid/a:1",
             "fsspec+sftp://no.invalid/a"],
)  # fmt: skip
def test_a_host_that_dns_does_not_know_is_asked_for_once(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ENDPOINT"):
        monkeypatch.setenv(name, "https://no.invalid" if "END" in name else "acme")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    ref = parse(text, is_path=lambda _: False)
    caplog.set_level(logging.INFO)
    try:
        socket.getaddrinfo("no.invalid", 443)
    except socket.gaierror as error:
        tries = 2 if error.errno == socket.EAI_AGAIN else 1  # no DNS answers, and it may do so later
    with pytest.raises(Unreachable):
        open_source(ref.scheme, Settings(tmp_path, hub_endpoint="https://no.invalid", retries=1)).resolve(ref)
    assert caplog.text.count("next try") == tries - 1
