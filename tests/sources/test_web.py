"""Adapters on web servers of every make: what is there, which version of it, and what is refused."""

import base64
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Changed, Corrupt, LoraCliError, NotFound, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.web import WebSource
from tests.processes import listens, running
from tests.web_server import Site, WebServer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = {
    CONFIG: b'{"peft_type": "LORA"}',
    WEIGHTS: bytes(range(256)) * 5000,
    "README.md": b"# SQL\n",
    "tokenizer_config.json": b"",
}
SIZES = {path: len(content) for path, content in FILES.items()}


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(Site({f"sql/{path}": content for path, content in FILES.items()})) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0)


@pytest.fixture
def source(settings: Settings) -> WebSource:
    return WebSource(settings)


def ref(server: WebServer, folder: str = "sql") -> AdapterRef:
    return AdapterRef("http", f"{server.place}/{folder}")


def weights(revision: Revision) -> RemoteFile:
    file = revision.file(WEIGHTS)
    assert file is not None
    return file


def sizes(revision: Revision) -> dict[str, int | None]:
    return {file.path: file.size for file in revision.files}


def read(source: WebSource, revision: Revision, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(source.read(revision, weights(revision), start, stop))


def test_the_usual_names_are_asked_for_with_a_request_of_one_byte_each(server: WebServer, source: WebSource) -> None:
    revision = source.resolve(ref(server))
    assert sizes(revision) == SIZES
    assert {(asked.method, asked.headers["Range"]) for asked in server.asked} == {("GET", "bytes=0-0")}
    assert len(server.asked) <= 20
    assert read(source, revision) == FILES[WEIGHTS]


SERVERS: tuple[tuple[dict[str, Any], str, str | None], ...] = (
    ({}, "etag", "If-Match"),
    ({"ranges": False}, "etag", "If-Match"),
    ({"obeys": False}, "etag", "If-Match"),
    ({"etag": ""}, "date", "If-Unmodified-Since"),
    ({"etag": "weak"}, "date", "If-Unmodified-Since"),
    ({"etag": "", "obeys": False}, "date", "If-Unmodified-Since"),
    ({"etag": "", "changed": None}, "none", None),
    ({"etag": "", "changed": 4_000_000_000}, "none", "If-Unmodified-Since"),
)


@pytest.mark.parametrize(("how", "promise", "condition"), SERVERS, ids=str)
def test_what_is_read_is_the_version_that_was_listed_as_far_as_a_server_tells(
    how: dict[str, Any], promise: str, condition: str | None, server: WebServer, source: WebSource
) -> None:
    for name, value in how.items():
        setattr(server.site, name, value)
    first, again = source.resolve(ref(server)), source.resolve(ref(server))
    assert first.id.partition("-")[0] == promise
    assert (first.id == again.id) is (promise != "none")
    assert sizes(first) == SIZES
    server.asked.clear()
    assert read(source, first, 300, 700) == FILES[WEIGHTS][300:700]
    assert {name for name in server.asked[0].headers if name.startswith("If-")} == ({condition} if condition else set())
    server.site.files[f"sql/{WEIGHTS}"] = FILES[WEIGHTS][::-1] + (b"" if promise != "none" else b"more")
    server.site.changed = 1_700_000_009 if server.site.changed else None
    with pytest.raises(Corrupt):
        read(source, first)
    assert source.resolve(ref(server)).id != first.id


@pytest.mark.parametrize("how", [{}, {"ranges": False}, {"etag": "", "changed": None}], ids=str)
def test_a_stream_that_breaks_is_resumed_in_the_same_version_only(
    how: dict[str, Any], server: WebServer, settings: Settings
) -> None:
    source = WebSource(replace(settings, retries=1))
    for name, value in how.items():
        setattr(server.site, name, value)
    revision = source.resolve(ref(server))
    server.site.cuts = [1, 100_000, 700_000]
    assert read(source, revision) == FILES[WEIGHTS]
    assert not server.site.cuts
    if not how:
        server.site.cuts = [100_000]
        stream = source.read(revision, weights(revision), 0, None)
        assert next(stream)
        server.site.files[f"sql/{WEIGHTS}"] = FILES[WEIGHTS][::-1]
        with pytest.raises(Corrupt):
            b"".join(stream)


def digest_headers(content: bytes) -> list[dict[str, str]]:
    digest = hashlib.sha256(content)
    encoded = base64.b64encode(digest.digest()).decode()
    return [{"X-Checksum-Sha256": digest.hexdigest().upper()}, {"Repr-Digest": f"md5=:AA==:, sha-256=:{encoded}:"}]


@pytest.mark.parametrize("form", [0, 1])
def test_a_digest_that_the_server_says_is_the_files(form: int, server: WebServer, source: WebSource) -> None:
    server.site.more = lambda content: digest_headers(content)[form]
    assert weights(source.resolve(ref(server))).sha256 == hashlib.sha256(FILES[WEIGHTS]).hexdigest()


def test_a_size_that_nobody_says_is_unknown(server: WebServer, source: WebSource) -> None:
    server.site.ranges = server.site.length = False
    revision = source.resolve(ref(server))
    assert weights(revision).size is None
    assert read(source, revision) == FILES[WEIGHTS]


FOLDERS: tuple[tuple[dict[str, bytes], set[str]], ...] = (
    ({"config.json": b"{}"}, {"config.json"}),
    ({CONFIG: b"{}"}, {CONFIG}),
    ({CONFIG: b"{}", "config.json": b"{}", "adapter_model.bin": b"x"}, {CONFIG, "adapter_model.bin"}),
    ({CONFIG: b"{}", WEIGHTS: b"x", "adapter_model.bin": b"x"}, {CONFIG, WEIGHTS}),
)


@pytest.mark.parametrize(("files", "listed"), FOLDERS)
def test_an_adapter_or_else_the_config_of_a_base_is_listed(
    files: dict[str, bytes], listed: set[str], server: WebServer, source: WebSource
) -> None:
    """Pickled weights where there are no others."""
    server.site.files = {f"a b/ż/{path}": content for path, content in files.items()}
    assert set(sizes(source.resolve(ref(server, "a%20b/%C5%BC")))) == listed


PAGE, FORBIDS = (200, "text/html; charset=utf-8", b"<html>app</html>"), (403, "application/xml", b"<Error/>")


@pytest.mark.parametrize(
    ("missing", "without"),
    [(PAGE, "a web page instead of adapter_config.json"), (FORBIDS, "denies access"), (None, "there is neither")],
)
def test_what_a_server_says_of_what_is_missing_is_known(
    missing: tuple[int, str, bytes] | None, without: str, server: WebServer, source: WebSource
) -> None:
    if missing is not None:
        server.site.missing = missing
    assert sizes(source.resolve(ref(server))) == SIZES
    with pytest.raises((NotFound, AccessDenied), match=without) as caught:
        source.resolve(ref(server, "nothing"))
    assert f"{server.place}/nothing" in caught.value.message
    assert caught.value.hint


def test_a_server_that_has_a_file_for_every_name_is_not_believed(server: WebServer, source: WebSource) -> None:
    server.site.missing = (200, "application/octet-stream", b"x")
    with pytest.raises(NotFound, match="a file for every name"):
        source.resolve(ref(server))


def test_a_login_page_behind_a_redirect_is_no_adapter(server: WebServer, source: WebSource) -> None:
    server.site.files["login"], server.site.types["login"] = b"<form>", "text/html"
    server.site.redirect = lambda target: None if target == "/login" else "/login"
    with pytest.raises(NotFound, match="a web page"):
        source.resolve(ref(server))


REFUSALS: tuple[tuple[str, int, type[LoraCliError]], ...] = (
    (CONFIG, 403, AccessDenied),
    (WEIGHTS, 403, AccessDenied),
    ("README.md", 403, AccessDenied),
    (CONFIG, 401, AccessDenied),
    (CONFIG, 405, NotFound),
    (CONFIG, 451, AccessDenied),
    (CONFIG, 500, Unreachable),
    (CONFIG, 418, Unreachable),
)


@pytest.mark.parametrize(("path", "status", "kind"), REFUSALS)
def test_a_refusal_is_said_with_its_file(
    path: str, status: int, kind: type[LoraCliError], server: WebServer, source: WebSource
) -> None:
    server.site.statuses[f"sql/{path}"] = status
    with pytest.raises(kind, match=str(status)) as caught:
        source.resolve(ref(server))
    assert path in caught.value.message or status == 500
    assert caught.value.hint
    server.site.missing = FORBIDS
    with pytest.raises(kind):  # weights that are forbidden are not taken for missing
        source.resolve(ref(server)) if path != "README.md" else source.resolve(ref(server, "nothing"))


@pytest.mark.parametrize(("status", "kind"), [(403, AccessDenied), (404, Changed), (500, Unreachable)])
def test_a_refusal_after_the_listing_is_an_error_too(
    status: int, kind: type[LoraCliError], server: WebServer, source: WebSource
) -> None:
    revision = source.resolve(ref(server))
    server.site.statuses[f"sql/{WEIGHTS}"] = status
    with pytest.raises(kind):
        read(source, revision)


def test_a_token_goes_to_its_server_and_not_behind_a_redirect(
    server: WebServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_TOKEN", "s3cret")
    rule = SourceRule(match=f"http://{server.place}/*", token_env="ACME_TOKEN")
    with WebServer(Site(dict(server.site.files))) as storage:
        server.site.token = "s3cret"
        server.site.redirect = lambda target: f"http://{storage.place}{target}?X-Amz-Signature=abc"
        source = WebSource(settings, rule)
        revision = source.resolve(ref(server))
        assert read(source, revision) == FILES[WEIGHTS]
        assert {asked.headers.get("Authorization") for asked in server.asked} == {"Bearer s3cret"}
        assert {asked.headers.get("Authorization") for asked in storage.asked} == {None}
        assert "X-Amz-Signature" not in repr(revision)
    monkeypatch.setenv("ACME_TOKEN", "rotated")
    with pytest.raises(AccessDenied) as caught:
        WebSource(settings, rule).resolve(ref(server))
    assert "the token in ACME_TOKEN is invalid" in caught.value.hint
    monkeypatch.setenv("ACME_TOKEN", "two words")
    with pytest.raises(UsageError, match="ACME_TOKEN is not a valid token"):
        WebSource(settings, rule).resolve(ref(server))


def test_a_rule_names_the_server_that_answers_in_place_of_the_host(server: WebServer, settings: Settings) -> None:
    rule = SourceRule(match="https://adapters.acme.internal/*", endpoint_url=f"http://{server.place}/")
    asked = AdapterRef("https", "adapters.acme.internal/sql")
    source = WebSource(settings, rule)
    revision = source.resolve(asked)
    assert revision.ref == asked
    assert read(source, revision) == FILES[WEIGHTS]


def test_no_more_names_are_asked_for_at_once_than_jobs(server: WebServer, settings: Settings) -> None:
    source = WebSource(replace(settings, jobs=3))
    under_way, most, lock = 0, 0, threading.Lock()

    def count(_: str) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.01)
        with lock:
            under_way -= 1

    server.site.before = count
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: source.resolve(ref(server)).id, range(4)))) == 1
    assert most == 3


def test_rclone_which_has_no_etags_is_held_to_the_time_of_change(source: WebSource, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    for path, content in FILES.items():
        (served / path).write_bytes(content)
        os.utime(served / path, (1_700_000_000, 1_700_000_000))

    def command(port: int) -> list[str]:
        options = ("--config", f"{tmp_path}/none", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", "0s")
        return [str(Path(sys.executable).parent / "rclone"), "serve", "http", *options, str(tmp_path)]

    with running(command, tmp_path / "log", [0], answers=listens) as endpoint:
        revision = source.resolve(AdapterRef("http", f"{endpoint.removeprefix('http://')}/served"))
        assert revision.id.startswith("date-")
        assert sizes(revision) == SIZES
        assert read(source, revision) == FILES[WEIGHTS]
        (served / WEIGHTS).write_bytes(FILES[WEIGHTS][::-1])
        with pytest.raises(Corrupt):
            read(source, revision)
