"""Buckets on real servers: what is listed, what is read, and what is said when that cannot be."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef, Scheme
from lora_cli.errors import (
    AccessDenied,
    Corrupt,
    LoraCliError,
    MachineError,
    NotFound,
    Offline,
    Refused,
    Unreachable,
    UsageError,
)
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import fetch
from tests.faulty_proxy import FaultyProxy
from tests.object_servers import OPEN_BUCKET, READER, AzureServer, GcsServer, S3Server
from tests.sources.buckets import CONFIG, WEIGHTS, adapter, at, content, error_of


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


@dataclass
class Place:
    """A folder ``sql`` at one of the providers. ``put`` takes keys, contents and metadata."""

    ref: AdapterRef
    put: Callable[[Mapping[str, bytes], Mapping[str, str]], None]


@pytest.fixture(params=["s3", "gs", "az"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    scheme: Scheme = request.param
    if scheme == "s3":
        server: S3Server = request.getfixturevalue("server")
        bucket = server.place()
        return Place(at(bucket), lambda objects, metadata: server.put(bucket, objects, Metadata=metadata))
    if scheme == "gs":
        google: GcsServer = request.getfixturevalue("gcs_server")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.endpoint.removeprefix("http://"))
        bucket = google.bucket()
        return Place(at(bucket, scheme=scheme), lambda objects, metadata: google.put(bucket, objects, metadata))
    azure: AzureServer = request.getfixturevalue("azure_server")
    for name, value in azure.environ.items():
        monkeypatch.setenv(name, value)
    container = azure.container()
    return Place(at(container, scheme=scheme), lambda objects, metadata: azure.put(container, objects, metadata))


def test_a_digest_in_the_metadata_is_compared_and_what_is_right_is_fetched(
    place: Place, settings: Settings, tmp_path: Path
) -> None:
    files, store = adapter(tmp_path / "adapter"), Store(settings.cache_dir)
    weights = files[f"sql/{WEIGHTS}"]

    def run() -> Path:
        return fetch(place.ref, open_source(place.ref.scheme, settings), store, settings).directory

    place.put(files, {})
    place.put({f"sql/{WEIGHTS}": weights}, {"sha256": "0" * 64})
    error = error_of(run)
    assert isinstance(error, Corrupt)
    assert WEIGHTS in error.message
    assert "0" * 64 in error.message
    assert not list((settings.cache_dir / "snapshots").rglob(WEIGHTS))
    place.put({f"sql/{WEIGHTS}": weights}, {"sha256": hashlib.sha256(weights).hexdigest()})
    snapshot = run()
    assert {f"sql/{path.name}": path.read_bytes() for path in snapshot.iterdir()} == files
    assert run() == snapshot
    place.put({f"sql/{WEIGHTS}": weights[::-1]}, {})
    assert (run() / WEIGHTS).read_bytes() == weights[::-1]


def test_a_listing_of_several_pages_is_whole_and_the_revision_changes_with_any_object(
    place: Place, settings: Settings
) -> None:
    source = open_source(place.ref.scheme, settings)
    place.put({f"sql/{number:04}": b"1" for number in range(1100)}, {})
    first = source.resolve(place.ref)
    assert [file.path for file in first.files] == [f"{number:04}" for number in range(1100)]
    place.put({"sql/0007": b"2"}, {})
    second = source.resolve(place.ref)
    place.put({"sql/more": b"2"}, {})
    assert len({first.id, second.id, source.resolve(place.ref).id}) == 3


def test_what_is_not_there_is_named(place: Place, settings: Settings) -> None:
    source, scheme = open_source(place.ref.scheme, settings), place.ref.scheme
    place.put({f"sql_10/{CONFIG}": b"{}"}, {})
    for key in ("sql_1", f"sql_10/{CONFIG}"):
        missing = AdapterRef(scheme, f"{place.ref.location.removesuffix('sql')}{key}")
        error = error_of(lambda missing=missing: source.resolve(missing))  # type: ignore[misc]
        assert isinstance(error, NotFound)
        assert f"{key}: there is nothing below " in error.message
        assert "whole folder" in error.hint
    if scheme != "gs":  # fake-gcs-server says of a bucket that is not there that it is empty
        error = error_of(lambda: source.resolve(at("no-such-bucket", scheme=scheme)))
        assert isinstance(error, NotFound)
        assert "no bucket no-such-bucket" in error.message


def test_a_folder_is_not_its_neighbour_of_which_it_is_a_prefix(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {f"adapter_{n}/{CONFIG}": str(n).encode() for n in range(1, 12)} | {"adapter_1.json": b"x"})
    for number in range(1, 12):
        revision = source.resolve(at(bucket, f"adapter_{number}"))
        assert [file.path for file in revision.files] == [CONFIG]
        assert content(source, revision, CONFIG) == str(number).encode()


@pytest.mark.parametrize("key", ["x %41+&ż#?=@v1", "a*b[c]", "tab'q\"d", "trailing.", "a%2Fb"])
def test_a_key_is_taken_as_it_stands(server: S3Server, bucket: str, source: Source, key: str) -> None:
    server.put(bucket, {f"{key}/{CONFIG}": key.encode(), f"{key} 2/{CONFIG}": b"another"})
    assert content(source, source.resolve(at(bucket, key)), CONFIG) == key.encode()


def test_objects_that_stand_for_folders_are_no_files(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {"sql/": b"", "sql/sub/": b"", "sql/sub/x.json": b"{}", f"sql/{CONFIG}": b"{}", "sql/none": b""})
    assert [file.path for file in source.resolve(at(bucket)).files] == [CONFIG, "none", "sub/x.json"]


def test_a_whole_bucket_is_a_folder_too(server: S3Server, source: Source) -> None:
    bucket = server.bucket()
    assert isinstance(error_of(lambda: source.resolve(at(bucket, ""))), NotFound)
    server.put(bucket, {CONFIG: b"{}"})
    assert [file.path for file in source.resolve(at(bucket, "")).files] == [CONFIG]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([f"sql/{number}" for number in range(51)], "over 50 entries"),
        (["sql/a\nb"], "not a valid file path"),
    ],
)
def test_what_cannot_be_an_adapter_is_refused(
    server: S3Server, bucket: str, source: Source, monkeypatch: pytest.MonkeyPatch, keys: list[str], says: str
) -> None:
    monkeypatch.setattr("lora_cli.sources.MOST_ENTRIES", 50)
    server.put(bucket, dict.fromkeys(keys, b"x"))
    error = error_of(lambda: source.resolve(at(bucket)))
    assert isinstance(error, Refused)
    assert says in error.message


def test_an_object_that_is_overwritten_or_removed_is_corrupt(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {"sql/a": b"1" * 100, "sql/b": b"1" * 100})
    revision = source.resolve(at(bucket))
    server.put(bucket, {"sql/a": b"2" * 100})
    name, _, folder = bucket.partition("/")
    server.client.delete_object(Bucket=name, Key=f"{folder}/sql/b")
    for path, word in (("a", "overwritten"), ("b", "removed")):
        error = error_of(lambda path=path: content(source, revision, path, 10, 20))  # type: ignore[misc]
        assert isinstance(error, Corrupt)
        assert f"{path}: it was {word}" in error.message


def test_a_connection_that_never_lasts_for_a_whole_piece_brings_the_file_all_the_same(
    server: S3Server, bucket: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(1 << 20)
    server.put(bucket, {f"sql/{WEIGHTS}": data})
    with FaultyProxy(server.endpoint, own_host=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        source = open_source("s3", settings)
        revision = source.resolve(at(bucket))
        proxy.fault("GET .*adapter", cut_at=200_000, times=-1)
        assert content(source, revision, WEIGHTS) == data


def test_offline_no_socket_is_opened(bucket: str, tmp_path: Path) -> None:
    source = open_source("s3", Settings(tmp_path, offline=True))
    assert isinstance(error_of(lambda: source.resolve(at(bucket))), Offline)


def test_a_forked_process_is_refused(server: S3Server, bucket: str, settings: Settings, source: Source) -> None:
    server.put(bucket, {f"sql/{CONFIG}": b"{}"})
    revision = source.resolve(at(bucket))
    child = os.fork()
    if not child:
        codes = []
        for asked in (source, open_source("s3", settings)):
            try:
                asked.resolve(at(bucket))
            except MachineError as error:
                codes.append(error.exit_code)
        os._exit(0 if codes == [6, 6] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert content(source, revision, CONFIG) == b"{}"


def test_nothing_heavy_is_imported(server: S3Server, bucket: str, tmp_path: Path) -> None:
    server.put(bucket, {f"sql/{CONFIG}": b"{}"})
    code = f"""
import sys
from pathlib import Path
from lora_cli.core.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
source = open_source("s3", Settings(Path({str(tmp_path)!r})))
source.resolve(AdapterRef("s3", "{bucket}/sql"))
assert not {{"boto3", "aiobotocore", "s3fs", "fsspec", "httpx2"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changed", "kind", "says", "hint"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "hunter2-hunter2"}, AccessDenied, "does not accept the secret", "SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, AccessDenied, "does not recognise the access key", "account"),
        (
            {"AWS_ACCESS_KEY_ID": READER[0], "AWS_SECRET_ACCESS_KEY": READER[1]},
            AccessDenied,
            "denies access with the credentials from AWS_ACCESS_KEY_ID",
            "s3:ListBucket",
        ),
        ({"AWS_SKIP_SIGNATURE": "true"}, AccessDenied, "denies access without", "unset AWS_SKIP_SIGNATURE"),
        ({"AWS_ACCESS_KEY_ID": ""}, AccessDenied, "no AWS credentials were found", "AWS_PROFILE"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_PROFILE": "nobody"}, UsageError, "no AWS profile nobody", "list-profiles"),
        ({"AWS_CA_BUNDLE": "/no/such/file"}, UsageError, "cannot be opened", "AWS_CA_BUNDLE"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, Unreachable, "refused (tried 2 times)", "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://no.invalid"}, Unreachable, "not known", "AWS_ENDPOINT_URL"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_each_refusal_says_what_is_wrong_and_no_secret(
    bucket: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    kind: type[LoraCliError],
    says: str,
    hint: str,
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    error = error_of(lambda: open_source("s3", settings).resolve(at(bucket)))
    assert type(error) is kind
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
    assert content(source, source.resolve(at(OPEN_BUCKET)), CONFIG) == b"{}"
