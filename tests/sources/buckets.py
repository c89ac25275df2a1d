"""Buckets as a source, and a server of a few lines that answers as S3 would."""

from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from lora_cli.documents.source_rules import SourceRule
from lora_cli.refs.reference import AdapterRef, Scheme
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from tests.answering import Reply
from tests.sources.asking import content

CONFIG = "adapter_config.json"
REF = AdapterRef("s3", "abc/sql")
HEADERS = {"ETag": '"e"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}
CONTENT = bytes(range(256)) * 1000
LISTED = "<LastModified>2026-11-24T12:00:00Z</LastModified><ETag>e</ETag>"


def at(bucket: str, key: str = "sql", scheme: Scheme = "s3") -> AdapterRef:
    return AdapterRef(scheme, f"{bucket}/{key}" if key else bucket)


def read(source: Source, start: int = 0, stop: int | None = None) -> bytes:
    return content(source, source.resolve(REF), "a", start, stop)


def listing(keys: Sequence[str], more: str = "") -> bytes:
    entries = "".join(f"<Contents><Key>{key}</Key>{LISTED}<Size>{len(CONTENT)}</Size></Contents>" for key in keys)
    return f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode()


def source_at(endpoint: str, tmp_path: Path, **rule: object) -> Source:
    settings = Settings(tmp_path / "cache", timeout_s=5, retries=0)
    named = SourceRule.model_validate(
        {"match": "s3://abc/*", "endpoint_url": endpoint, **(rule or {"anonymous": True})}
    )
    return open_source("s3", settings, named)


def piece_of(request: BaseHTTPRequestHandler) -> Reply:
    """The one object of ``CONTENT``, whole or the range that was asked for."""
    if "list-type" in request.path:
        return 200, listing(["sql/a"]), {}
    asked = request.headers.get("Range", "")
    if not asked:
        return 200, CONTENT, HEADERS
    start, stop = (int(number) for number in asked.removeprefix("bytes=").split("-"))
    span = {"Content-Range": f"bytes {start}-{stop}/{len(CONTENT)}"}
    return 206, CONTENT[start : stop + 1], {**HEADERS, **span}
