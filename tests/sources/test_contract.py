"""What every source promises, on every source."""

import hashlib
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.errors import AccessDenied, Corrupt, NotFound, Unreachable
from lora_cli.refs.reference import parse
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges
from lora_cli.sources.registry import SOURCES, open_source
from tests.fetching.places import ORIGINS, Origin, standing
from tests.hub_content import git_blob_id
from tests.sources.asking import error_of, file_of

FILES = {
    "README.md": b"# SQL\n",
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": bytes(range(256)) * 10_000,
    "sub folder/tokenizer #1.json": b"{}",
    "sub folder/żubrówka %41+&.txt": b"text",
    "tokenizer.json": b"",
}
WEIGHTS = FILES["adapter_model.safetensors"]
SLOW = {"az", "oci", "tars"}
"""Those whose servers ``.ci/run`` installs."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ORIGINS])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Origin]:
    """Each source that there is, over a real server."""
    with standing(request, Settings(tmp_path / "cache", timeout_s=5, retries=2)) as origin:
        origin.write(FILES)
        yield origin


def files_of(origin: Origin) -> dict[str, bytes]:
    """Of a web server are found the names that an adapter's files have."""
    folders = origin.ref.scheme not in {"http", "https"}
    return {path: data for path, data in FILES.items() if folders or "/" not in path}


def weights_of(origin: Origin) -> tuple[Revision, RemoteFile]:
    revision = origin.source.resolve(origin.ref)
    return revision, file_of(revision, "adapter_model.safetensors")


def test_every_source_is_held_to_the_contract() -> None:
    assert set(SOURCES) == {"file", "hf", "s3", "gs", "az", "http", "https", "oci", "fsspec"}


def test_every_file_is_listed_once_in_order_and_read_whole_and_what_is_said_of_it_is_true(origin: Origin) -> None:
    revision, files = origin.source.resolve(origin.ref), files_of(origin)
    assert [(file.path, file.size) for file in revision.files] == [(path, len(files[path])) for path in sorted(files)]
    assert revision.ref == origin.ref
    for file in revision.files:
        data = files[file.path]
        assert b"".join(origin.source.read(revision, file, 0, None)) == data
        assert file.sha256 in (None, hashlib.sha256(data).hexdigest())
        assert file.git_sha1 in (None, git_blob_id(data))
        assert not file.defect


RANGES = (
    (0, 0), (0, 1), (7, 7), (8, 1000), (1_048_575, 1_048_577), (0, len(WEIGHTS)), (len(WEIGHTS) - 1, None),
    (len(WEIGHTS), None), (len(WEIGHTS), len(WEIGHTS)), (5, len(WEIGHTS) + 5), (9, 3),
)  # fmt: skip


def test_a_range_is_what_a_slice_is(origin: Origin) -> None:
    revision, file = weights_of(origin)
    for start, stop in RANGES:
        chunks = list(origin.source.read(revision, file, start, stop))
        assert b"".join(chunks) == WEIGHTS[start:stop], (start, stop)
        assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks), (start, stop)


def test_many_threads_read_at_once(origin: Origin) -> None:
    revision, file = weights_of(origin)

    def piece(start: int) -> bytes:
        try:
            return b"".join(origin.source.read(revision, file, start, start + 100_000))
        except NoRanges:
            return b"".join(origin.source.read(revision, file, start, None))[:100_000]

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(piece, range(0, len(WEIGHTS), 100_000))) == WEIGHTS


def test_the_revision_is_the_same_until_something_changes(origin: Origin) -> None:
    first = origin.source.resolve(origin.ref)
    assert origin.source.resolve(origin.ref) == first
    origin.write({**FILES, "adapter_model.safetensors": WEIGHTS[::-1]})
    assert origin.source.resolve(origin.ref).id != first.id


def test_what_is_read_later_is_the_version_that_was_resolved_or_corrupt(origin: Origin) -> None:
    revision, file = weights_of(origin)
    origin.write({**FILES, "adapter_model.safetensors": WEIGHTS[::-1]})
    try:
        got = b"".join(origin.source.read(revision, file, 0, None))
    except Corrupt:
        return
    assert got == WEIGHTS


def test_what_is_not_there_is_named_with_a_hint(origin: Origin) -> None:
    missing = replace(origin.ref, location=f"{origin.ref.location}-missing")
    error = error_of(lambda: origin.source.resolve(missing))
    assert isinstance(error, NotFound | AccessDenied)
    assert missing.location in error.message
    assert error.hint


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
