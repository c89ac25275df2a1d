"""Google Cloud Storage over fake-gcs-server; what it cannot say, a server of a few lines says."""

import hashlib
import json
import socket
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.answering import Reply, answering
from tests.bringing import fetch
from tests.making import write_adapter
from tests.object_servers import GcsServer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Settings(tmp_path / "cache", timeout_s=5, retries=0)


@pytest.fixture
def server(gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> GcsServer:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.endpoint.removeprefix("http://"))
    return gcs_server


def at(bucket: str, key: str = "sql") -> AdapterRef:
    return AdapterRef("gs", f"{bucket}/{key}")


def error_of(call: Callable[[], object]) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        call()
    return caught.value


def test_an_adapter_is_fetched_and_a_digest_in_its_metadata_is_compared(
    server: GcsServer, settings: Settings, tmp_path: Path
) -> None:
    bucket, folder = server.bucket(), write_adapter(tmp_path / "adapter")
    weights = (folder / WEIGHTS).read_bytes()
    server.put(bucket, {f"sql/{CONFIG}": (folder / CONFIG).read_bytes()})
    server.put(bucket, {f"sql/{WEIGHTS}": weights}, {"sha256": "0" * 64})
    store = Store(settings.cache_dir)
    assert isinstance(error_of(lambda: fetch(at(bucket), open_source("gs", settings), store, settings)), Corrupt)
    server.put(bucket, {f"sql/{WEIGHTS}": weights}, {"sha256": hashlib.sha256(weights).hexdigest()})
    snapshot = fetch(at(bucket), open_source("gs", settings), store, settings)
    assert (snapshot.directory / WEIGHTS).read_bytes() == weights


def test_what_is_not_there_is_named(server: GcsServer, settings: Settings) -> None:
    bucket = server.bucket()
    server.put(bucket, {f"sql_10/{CONFIG}": b"{}"})
    assert isinstance(error_of(lambda: open_source("gs", settings).resolve(at(bucket, "sql_1"))), NotFound)


def test_a_bucket_that_is_not_there_is_named(settings: Settings) -> None:
    with answering(lambda _: (404, b"<Error><Code>NoSuchBucket</Code></Error>", {})) as endpoint:
        rule = SourceRule(match="gs://a/*", endpoint_url=endpoint, anonymous=True)
        error = error_of(lambda: open_source("gs", settings, rule).resolve(at("no-such-bucket")))
    assert isinstance(error, NotFound)
    assert "no bucket no-such-bucket" in error.message


@pytest.mark.slow
def test_without_credentials_nobody_waits_long_for_a_machine_of_googles(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        # A listener whose queue is full does not answer, as the address does not outside of Google.
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{full.getsockname()[1]}")
        began = time.monotonic()
        error = error_of(lambda: open_source("gs", settings).resolve(at("some-bucket")))
        for one in waiting:
            one.close()
    assert time.monotonic() - began < 5
    assert isinstance(error, AccessDenied)
    assert "no Google credentials" in error.message
    assert "gcloud auth" in error.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), *((text, "contains no usable credentials") for text in ("x", "{}", "[]"))],
)
def test_a_file_that_holds_no_credentials_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, says: str
) -> None:
    file = tmp_path / "key.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    error = error_of(lambda: open_source("gs", settings).resolve(at("some-bucket")))
    assert isinstance(error, UsageError)
    assert says in error.message
    assert str(file) in error.message


def test_without_google_auth_the_extra_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setitem(sys.modules, "google.auth", None)
    error = error_of(lambda: open_source("gs", settings).resolve(at("some-bucket")))
    assert error.exit_code == 2
    assert "lora-cli[gcs]" in error.hint


def test_no_other_variable_sends_requests_elsewhere(
    server: GcsServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, heard = server.bucket(), list[str]()
    server.put(bucket, {f"sql/{CONFIG}": b"{}"})

    def hear(request: BaseHTTPRequestHandler) -> Reply:
        heard.append(request.path)
        return 404, b"", {}

    with answering(hear) as elsewhere:
        monkeypatch.setenv("GOOGLE_BASE_URL", elsewhere)
        monkeypatch.setenv("GOOGLE_BUCKET", "another")
        assert open_source("gs", settings).resolve(at(bucket)).files
    assert not heard


LISTING = b"<ListBucketResult><Contents><Key>sql/a</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>e</ETag><Size>1</Size></Contents></ListBucketResult>"  # noqa: E501


def test_the_token_of_a_rule_is_sent_and_a_refusal_does_not_repeat_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_TOKEN_TEAM", "ya29.secret")
    seen: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request.headers.get("Authorization", ""))
        if len(seen) == 1:
            return 200, LISTING, {}
        return (
            401,
            b"<Error><Code>AuthenticationRequired</Code><Message>Bearer ya29.secret is bad</Message></Error>",
            {},
        )

    with answering(reply) as endpoint:
        rule = SourceRule(match="gs://a/*", endpoint_url=endpoint, token_env="LORA_CLI_TOKEN_TEAM")
        assert [file.path for file in open_source("gs", settings, rule).resolve(at("abc")).files] == ["a"]
        error = error_of(lambda: open_source("gs", settings, rule).resolve(at("abc")))
    assert seen == ["Bearer ya29.secret"] * 2
    assert isinstance(error, AccessDenied)
    assert "LORA_CLI_TOKEN_TEAM" in error.message
    assert "ya29" not in error.message + error.hint


def test_a_federated_identity_is_asked_of_googles_own_library(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.path == "/token":
            token = {"access_token": "federated", "issued_token_type": "t", "token_type": "Bearer", "expires_in": 3600}
            return 200, json.dumps(token).encode(), {}
        return (200, LISTING, {}) if request.headers["Authorization"] == "Bearer federated" else (403, b"", {})

    with answering(reply) as endpoint:
        (tmp_path / "subject").write_text("subject-token")
        document = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{endpoint}/token",
            "credential_source": {"file": str(tmp_path / "subject")},
        }
        (tmp_path / "federated.json").write_text(json.dumps(document))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "federated.json"))
        source = open_source("gs", settings, SourceRule(match="gs://a/*", endpoint_url=endpoint))
        assert [file.path for file in source.resolve(at("abc")).files] == ["a"]
