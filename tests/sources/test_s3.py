"""S3 over SeaweedFS: what is listed, what is read, and what each refusal says."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_cli.errors import Corrupt, LoraCliError, NotFound, Offline, Refused, UsageError
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import fetch
from tests.object_servers import S3Server
from tests.sources.buckets import CONFIG, at, error_of, put_adapter

WEIGHTS = "adapter_model.safetensors"


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


def test_a_folder_is_not_its_neighbour_of_which_it_is_a_prefix(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {f"adapter_{n}/{CONFIG}": str(n).encode() for n in range(1, 12)} | {"adapter_1.json": b"x"})
    for number in range(1, 12):
        revision = source.resolve(at(bucket, f"adapter_{number}"))
        assert [file.path for file in revision.files] == [CONFIG]
        assert b"".join(source.read(revision, revision.files[0], 0, None)) == str(number).encode()


@pytest.mark.parametrize("key", ["x %41+&ż#?=@v1", "a*b[c]", "tab'q\"d", "trailing.", "a%2Fb"])
def test_a_key_is_taken_as_it_stands(server: S3Server, bucket: str, source: Source, key: str) -> None:
    server.put(bucket, {f"{key}/{CONFIG}": key.encode(), f"{key} 2/{CONFIG}": b"another"})
    revision = source.resolve(at(bucket, key))
    assert b"".join(source.read(revision, revision.files[0], 0, None)) == key.encode()


def test_objects_that_stand_for_folders_are_no_files(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {"sql/": b"", "sql/sub/": b"", "sql/sub/x.json": b"{}", f"sql/{CONFIG}": b"{}", "sql/none": b""})
    assert [file.path for file in source.resolve(at(bucket)).files] == [CONFIG, "none", "sub/x.json"]


def test_a_whole_bucket_is_a_folder_too(server: S3Server, source: Source) -> None:
    bucket = server.bucket()
    server.put(bucket, {CONFIG: b"{}"})
    assert [file.path for file in source.resolve(at(bucket, "")).files] == [CONFIG]


@pytest.mark.slow
def test_a_listing_of_many_pages_is_read_to_its_end(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {f"sql/{number:04}": b"" for number in range(1203)})
    assert len(source.resolve(at(bucket)).files) == 1203


def test_a_listing_of_too_many_objects_is_refused_with_the_number(
    server: S3Server, bucket: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_cli.sources.listed_paths.MOST_ENTRIES", 50)
    server.put(bucket, {f"sql/{number:04}": b"" for number in range(51)})
    error = error_of(lambda: source.resolve(at(bucket)))
    assert isinstance(error, Refused)
    assert "over 50 entries" in error.message


def test_a_key_that_could_not_be_a_file_is_refused_by_name(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {"sql/a\u202eb": b"x"})
    error = error_of(lambda: source.resolve(at(bucket)))
    assert isinstance(error, Refused)
    assert "control characters" in error.message


def test_the_revision_changes_with_any_object(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {f"sql/{CONFIG}": b"{}", "sql/b": b"1"})
    first = source.resolve(at(bucket)).id
    server.put(bucket, {"sql/b": b"2"})
    second = source.resolve(at(bucket)).id
    server.put(bucket, {"sql/c": b"2"})
    assert len({first, second, source.resolve(at(bucket)).id}) == 3


def test_an_object_that_is_overwritten_or_removed_is_corrupt(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {"sql/a": b"1" * 100, "sql/b": b"1" * 100})
    revision = source.resolve(at(bucket))
    server.put(bucket, {"sql/a": b"2" * 100})
    name, _, folder = bucket.partition("/")
    server.client.delete_object(Bucket=name, Key=f"{folder}/sql/b")
    for file, word in zip(revision.files, ("overwritten", "removed"), strict=True):
        error = error_of(lambda file=file: list(source.read(revision, file, 10, 20)))  # type: ignore[misc]
        assert isinstance(error, Corrupt)
        assert word in error.message
        assert file.path in error.message


def test_an_adapter_is_fetched_whole_and_a_second_time_it_is_here(
    server: S3Server, bucket: str, settings: Settings, tmp_path: Path
) -> None:
    files = put_adapter(server, bucket, tmp_path / "adapter")
    snapshots = [fetch(at(bucket), open_source("s3", settings), Store(settings.cache_dir), settings) for _ in range(2)]
    assert {path: (snapshots[0].directory / path).read_bytes() for path in files} == files
    assert snapshots[0].directory == snapshots[1].directory


def test_an_adapter_that_was_overwritten_with_the_same_size_is_fetched_again(
    server: S3Server, bucket: str, settings: Settings, tmp_path: Path
) -> None:
    files = put_adapter(server, bucket, tmp_path / "adapter")
    source, store = open_source("s3", settings), Store(settings.cache_dir)
    before = fetch(at(bucket), source, store, settings)
    changed = files[WEIGHTS][:-1] + bytes([files[WEIGHTS][-1] ^ 1])
    server.put(bucket, {f"sql/{WEIGHTS}": changed})
    after = fetch(at(bucket), source, store, settings)
    assert after.files[WEIGHTS].sha256 == hashlib.sha256(changed).hexdigest()
    assert after.files[CONFIG] == before.files[CONFIG]


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_a_digest_in_the_metadata_is_compared(
    server: S3Server, bucket: str, settings: Settings, tmp_path: Path, right: bool
) -> None:
    files = put_adapter(server, bucket, tmp_path / "adapter")
    said = hashlib.sha256(files[WEIGHTS]).hexdigest() if right else "0" * 64
    server.put(bucket, {f"sql/{WEIGHTS}": files[WEIGHTS]}, Metadata={"sha256": said})
    store = Store(settings.cache_dir)

    def run() -> object:
        return fetch(at(bucket), open_source("s3", settings), store, settings)

    if right:
        run()
        return
    error = error_of(run)
    assert isinstance(error, Corrupt)
    assert WEIGHTS in error.message
    assert said in error.message
    assert not list((settings.cache_dir / "snapshots").rglob(WEIGHTS))


def test_what_is_not_there_is_named(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {f"sql/{CONFIG}": b"{}"})
    missing = error_of(lambda: source.resolve(at("no-such-bucket")))
    assert isinstance(missing, NotFound)
    assert "no bucket no-such-bucket" in missing.message
    empty = error_of(lambda: source.resolve(at(server.bucket(), "")))
    assert isinstance(empty, NotFound)
    assert "is empty" in empty.message
    assert isinstance(error_of(lambda: source.resolve(at(bucket, "sq"))), NotFound)
    file = error_of(lambda: source.resolve(at(bucket, f"sql/{CONFIG}")))
    assert isinstance(file, UsageError)
    assert file.hint == f"write s3://{bucket}/sql"


def test_offline_no_socket_is_opened(bucket: str, tmp_path: Path) -> None:
    source = open_source("s3", Settings(tmp_path, offline=True))
    assert isinstance(error_of(lambda: source.resolve(at(bucket))), Offline)


def test_a_forked_process_asks_on_a_connection_of_its_own(bucket: str, source: Source) -> None:
    missing = error_of(lambda: source.resolve(at(bucket)))
    assert isinstance(missing, NotFound)
    child = os.fork()
    if not child:
        try:
            source.resolve(at(bucket))
        except LoraCliError as error:
            os._exit(error.exit_code)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == missing.exit_code
    assert isinstance(error_of(lambda: source.resolve(at(bucket))), NotFound)


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
assert not {{"obstore", "boto3", "aiobotocore", "s3fs", "fsspec", "httpx2"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_key_that_is_no_path_is_refused(server: S3Server, bucket: str, source: Source) -> None:
    server.put(bucket, {"sql/a\nb": b"x"})
    error = error_of(lambda: source.resolve(at(bucket)))
    assert isinstance(error, Refused)
    assert "control characters" in error.message
