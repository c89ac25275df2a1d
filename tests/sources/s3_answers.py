"""What a server of a few lines answers as S3 would, and a source that asks it."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import LoraCliError
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from tests.answering import Reply

REF = AdapterRef("s3", "abc/sql")
HEADERS = {"ETag": '"e"', "Last-Modified": "Tue, 24 Nov 2026 12:00:00 GMT"}
CONTENT = bytes(range(256)) * 1000


def listing(keys: list[str], size: int = len(CONTENT), more: str = "") -> bytes:
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-24T12:00:00Z</LastModified><ETag>e</ETag>"
        f"<Size>{size}</Size></Contents>"
        for key in keys
    )
    return f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode()


def refusal(status: int, code: str, rest: str = "") -> Reply:
    return status, f"<Error><Code>{code}</Code><Message>it says</Message>{rest}</Error>".encode(), {}


def source_at(endpoint: str, tmp_path: Path, *, retries: int = 0, timeout_s: float = 5) -> Source:
    settings = Settings(tmp_path / "cache", timeout_s=timeout_s, retries=retries)
    return open_source("s3", settings, SourceRule(match="s3://abc/*", endpoint_url=endpoint, anonymous=True))


def error_of(call: Callable[[], object]) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        call()
    return caught.value


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


def read(source: Source, start: int = 0, stop: int | None = None) -> bytes:
    revision = source.resolve(REF)
    return b"".join(source.read(revision, revision.files[0], start, stop))
