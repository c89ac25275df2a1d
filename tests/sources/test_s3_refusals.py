"""What S3 refuses, and whom: each refusal in its own words, and no secret in any."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_cli.errors import AccessDenied, LoraCliError, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from tests.object_servers import OPEN_BUCKET, READER, S3Server
from tests.sources.buckets import CONFIG, at, error_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=1)


@pytest.fixture
def server(seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
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


Change = Callable[[pytest.MonkeyPatch], None]


def _wrong_secret(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")


def _unknown_key(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")


def _no_rights(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_ACCESS_KEY_ID", READER[0])
    patch.setenv("AWS_SECRET_ACCESS_KEY", READER[1])


def _anonymous(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_SKIP_SIGNATURE", "true")


def _no_credentials(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("AWS_ACCESS_KEY_ID")


def _no_profile(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.setenv("AWS_PROFILE", "nobody")


@pytest.mark.parametrize(
    ("change", "kind", "says", "hint"),
    [
        (_wrong_secret, AccessDenied, "does not accept the secret", "AWS_SECRET_ACCESS_KEY"),
        (_unknown_key, AccessDenied, "does not recognise the access key", "account"),
        (_no_rights, AccessDenied, "denies access", "s3:ListBucket"),
        (_anonymous, AccessDenied, "denies access", "unset AWS_SKIP_SIGNATURE"),
        (_no_credentials, AccessDenied, "no AWS credentials were found", "AWS_PROFILE"),
        (_no_profile, UsageError, "no AWS profile nobody", "list-profiles"),
    ],
)
def test_each_refusal_says_what_is_wrong_and_no_secret(
    bucket: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    kind: type[LoraCliError],
    says: str,
    hint: str,
) -> None:
    change(monkeypatch)
    error = error_of(lambda: open_source("s3", settings).resolve(at(bucket)))
    assert isinstance(error, kind)
    assert says in error.message
    assert hint in error.hint
    for secret in ("hunter2", "testsecret", "AKIANOBODY", *READER):
        assert secret not in error.message + error.hint


def test_a_public_bucket_is_read_without_credentials_when_that_is_asked(
    server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(OPEN_BUCKET, {f"sql/{CONFIG}": b"{}"})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    source = open_source("s3", settings)
    revision = source.resolve(at(OPEN_BUCKET))
    assert b"".join(source.read(revision, revision.files[0], 0, None)) == b"{}"


@pytest.mark.parametrize(
    ("endpoint", "says"), [("http://127.0.0.1:9", "refused (tried 2 times)"), ("http://no.invalid", "not known")]
)
def test_an_endpoint_that_is_down_is_worth_another_try_and_an_unknown_one_is_not(
    bucket: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, endpoint: str, says: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    error = error_of(lambda: open_source("s3", settings).resolve(at(bucket)))
    assert isinstance(error, Unreachable)
    assert error.message.endswith(says)
    assert "AWS_ENDPOINT_URL" in error.hint


@pytest.mark.slow
def test_without_credentials_nobody_waits_long_for_an_instance(
    bucket: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{silent_port}")
    began = time.monotonic()
    assert isinstance(error_of(lambda: open_source("s3", settings).resolve(at(bucket))), AccessDenied)
    assert time.monotonic() - began < 5


@pytest.fixture
def silent_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_profile_and_its_endpoint_are_found(
    server: S3Server, bucket: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(bucket, {f"sql/{CONFIG}": b"{}"})
    key, secret = server.keys
    (tmp_path / "credentials").write_text(f"[team]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")
    (tmp_path / "config").write_text(f"[profile team]\nregion=eu-west-1\nendpoint_url={server.endpoint}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert [file.path for file in open_source("s3", settings).resolve(at(bucket)).files] == [CONFIG]
