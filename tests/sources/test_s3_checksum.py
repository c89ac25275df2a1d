"""The checksum that S3 keeps of an object: asked for, and compared."""

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import Corrupt, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources import DigestSource
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.answering import Reply, answering
from tests.bringing import fetch
from tests.making import write_adapter
from tests.object_servers import S3Server

HEADER = "x-amz-checksum-sha256"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0)


@pytest.fixture
def server(seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    return seaweed_server


def told(bucket: str, settings: Settings) -> Mapping[str, str]:
    """What is told of the one object below ``sql/``, once it was read."""
    source = open_source("s3", settings)
    assert isinstance(source, DigestSource)
    revision = source.resolve(AdapterRef("s3", f"{bucket}/sql"))
    for _ in source.read(revision, revision.files[0], 0, None):
        pass
    return source.reported_digests(revision, revision.files[0])


def test_a_checksum_of_all_bytes_is_told(server: S3Server, settings: Settings) -> None:
    bucket, content = server.bucket(), os.urandom(3000)
    server.put(bucket, {"sql/sub folder/ż #1.bin": content}, ChecksumAlgorithm="SHA256")
    assert told(bucket, settings) == {HEADER: hashlib.sha256(content).hexdigest()}


def test_no_checksum_is_no_promise(server: S3Server, settings: Settings) -> None:
    bucket = server.bucket()
    server.put(bucket, {"sql/a": b"1"}, ChecksumAlgorithm="CRC32")
    assert told(bucket, settings) == {}


def test_a_checksum_of_the_parts_is_not_taken_for_one_of_the_bytes(server: S3Server, settings: Settings) -> None:
    bucket, part, client = server.bucket(), os.urandom(5 << 20), server.client
    where = {"Bucket": bucket, "Key": "sql/a"}
    upload = client.create_multipart_upload(**where, ChecksumAlgorithm="SHA256")["UploadId"]
    done = [{"PartNumber": number, **_uploaded(client, where, upload, number, part)} for number in (1, 2)]
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": done})
    assert client.head_object(**where, ChecksumMode="ENABLED")["ETag"].endswith('-2"')
    assert told(bucket, settings) == {}


def _uploaded(client: Any, where: dict[str, str], upload: str, number: int, part: bytes) -> dict[str, str]:
    sent = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=part, ChecksumAlgorithm="SHA256")
    return {"ETag": sent["ETag"], "ChecksumSHA256": sent["ChecksumSHA256"]}


class Bucket:
    """One adapter in a bucket whose server says that its checksum is ``said``; the first ``failures`` HEADs get 503."""

    def __init__(self, folder: Path, said: str, failures: int = 0) -> None:
        self.files = {f"sql/{path.name}": path.read_bytes() for path in write_adapter(folder).iterdir()}
        self.said, self.failures, self.heads = said, failures, 0

    def __call__(self, request: BaseHTTPRequestHandler) -> Reply:
        path = request.path.partition("?")[0].removeprefix("/abc/")
        if path not in self.files:
            return 200, self._listing(), {}
        headers = {"ETag": f'"{self._etag(path)}"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}
        if request.command == "HEAD":
            self.heads += 1
            if self.heads <= self.failures:
                return 503, b"", {}
        if asked := request.headers.get("Range"):
            start, stop = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            content = self.files[path]
            span = {"Content-Range": f"bytes {start}-{stop}/{len(content)}"}
            return 206, content[start : stop + 1], headers | span
        return 200, self.files[path], headers | {HEADER: self.said}

    def _etag(self, path: str) -> str:
        return hashlib.md5(self.files[path]).hexdigest()

    def _listing(self) -> bytes:
        entries = "".join(
            f"<Contents><Key>{path}</Key><LastModified>2026-11-24T12:00:00Z</LastModified>"
            f"<ETag>{self._etag(path)}</ETag><Size>{len(content)}</Size></Contents>"
            for path, content in self.files.items()
        )
        return f"<ListBucketResult>{entries}</ListBucketResult>".encode()


def source_at(endpoint: str, settings: Settings) -> DigestSource:
    source = open_source("s3", settings, SourceRule(match="s3://abc/*", endpoint_url=endpoint, anonymous=True))
    assert isinstance(source, DigestSource)
    return source


def fetched_from(bucket: Bucket, settings: Settings) -> Any:
    with answering(bucket) as endpoint:
        source = source_at(endpoint, settings)
        return fetch(AdapterRef("s3", "abc/sql"), source, Store(settings.cache_dir), settings)


def test_bytes_that_are_not_the_checksums_are_not_kept(settings: Settings, tmp_path: Path) -> None:
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    with pytest.raises(Corrupt, match=HEADER):
        fetched_from(Bucket(tmp_path / "adapter", wrong), settings)
    assert not list(settings.cache_dir.rglob("adapter_model*"))


@pytest.mark.parametrize("said", ["", "not base64!", "c2hvcnQ=", "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo=-2"])
def test_what_is_no_sha256_is_no_promise(settings: Settings, tmp_path: Path, said: str) -> None:
    assert fetched_from(Bucket(tmp_path / "adapter", said), settings).files


def test_what_is_read_whole_costs_one_request_and_what_is_read_in_ranges_is_asked_for(
    settings: Settings, tmp_path: Path
) -> None:
    bucket = Bucket(tmp_path / "adapter", base64.b64encode(hashlib.sha256(b"other").digest()).decode())
    size = len(bucket.files["sql/adapter_model.safetensors"])
    with answering(bucket) as endpoint:
        for stop, heads in ((None, 0), (size, 0), (size - 1, 1)):
            source, bucket.heads = source_at(endpoint, settings), 0
            revision = source.resolve(AdapterRef("s3", "abc/sql"))
            weights = revision.file("adapter_model.safetensors")
            assert weights is not None
            for _ in source.read(revision, weights, 0, stop):
                pass
            assert source.reported_digests(revision, weights) == {HEADER: hashlib.sha256(b"other").hexdigest()}
            assert bucket.heads == heads


def test_a_question_for_a_checksum_is_asked_again_and_its_failure_is_not_passed_over(
    settings: Settings, tmp_path: Path
) -> None:
    for retries, failures, heads in ((0, 99, 1), (1, 1, 2)):
        bucket = Bucket(tmp_path / f"adapter-{retries}", "", failures)
        with answering(bucket) as endpoint:
            source = source_at(endpoint, replace(settings, retries=retries))
            revision = source.resolve(AdapterRef("s3", "abc/sql"))
            if failures > retries:
                with pytest.raises(Unreachable, match="503"):
                    source.reported_digests(revision, revision.files[0])
            else:
                assert source.reported_digests(revision, revision.files[0]) == {}
        assert bucket.heads == heads


def test_what_a_lock_promises_is_not_asked_for(server: S3Server, settings: Settings) -> None:
    bucket = server.bucket()
    server.put(bucket, {"sql/a": b"1"}, ChecksumAlgorithm="SHA256")
    source = open_source("s3", settings)
    assert isinstance(source, DigestSource)
    revision = source.resolve(AdapterRef("s3", f"{bucket}/sql"))
    locked = RemoteFile("a", 1, hashlib.sha256(b"1").hexdigest(), version=revision.files[0].version)
    assert source.reported_digests(Revision(revision.ref, revision.id, (locked,)), locked) == {}
