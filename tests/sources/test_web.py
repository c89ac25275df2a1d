"""Adapters on web servers of every make: what is there, which version of it, and what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lora_cli.errors import AccessDenied, Changed, Corrupt, NotFound, Unreachable
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import Revision
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from tests.sources.asking import Kind, content, file_of
from tests.web_server import Site, WebServer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = {CONFIG: b'{"peft_type": "LORA"}', WEIGHTS: bytes(range(256)) * 5000, "README.md": b"# SQL\n"}
FILES["tokenizer_config.json"] = b""
SIZES = {path: len(content) for path, content in FILES.items()}
OTHER = FILES[WEIGHTS][::-1]


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(Site({f"sql/{path}": content for path, content in FILES.items()})) as running:
        yield running


@pytest.fixture
def source(settings: Settings) -> Source:
    return open_source("http", settings)


def ref(server: WebServer, folder: str = "sql") -> AdapterRef:
    return AdapterRef("http", f"{server.place}/{folder}")


def sizes(revision: Revision) -> dict[str, int | None]:
    return {file.path: file.size for file in revision.files}


SERVERS: tuple[tuple[dict[str, Any], str, str | None], ...] = (
    ({}, "etag", "If-Match"),
    ({"ranges": False}, "etag", "If-Match"),
    ({"obeys": False}, "etag", "If-Match"),
    ({"etag": ""}, "date", "If-Unmodified-Since"),
    ({"etag": "weak", "obeys": False}, "date", "If-Unmodified-Since"),
    ({"etag": "", "changed": None}, "none", None),
)


@pytest.mark.parametrize(("how", "promise", "condition"), SERVERS, ids=str)
def test_what_is_read_is_the_version_that_was_listed_as_far_as_a_server_tells(
    how: dict[str, Any], promise: str, condition: str | None, server: WebServer, source: Source
) -> None:
    for name, value in how.items():
        setattr(server.site, name, value)
    first, again = source.resolve(ref(server)), source.resolve(ref(server))
    assert {(asked.method, asked.headers["Range"]) for asked in server.asked} == {("GET", "bytes=0-0")}
    assert len(server.asked) <= 2 * 20
    assert first.id.partition("-")[0] == promise
    assert (first.id == again.id) is (promise != "none")
    assert sizes(first) == SIZES
    server.asked.clear()
    assert content(source, first, WEIGHTS, 300, 700) == FILES[WEIGHTS][300:700]
    assert {name for name in server.asked[0].headers if name.startswith("If-")} == ({condition} if condition else set())
    server.site.files[f"sql/{WEIGHTS}"] = OTHER + (b"" if promise != "none" else b"more")
    server.site.changed = 1_700_000_009 if server.site.changed else None
    with pytest.raises(Corrupt):
        content(source, first, WEIGHTS)
    assert source.resolve(ref(server)).id != first.id


def test_without_a_version_nothing_is_resumed(server: WebServer, source: Source) -> None:
    server.site.etag, server.site.changed, server.site.cuts = "", None, [100_000]
    with pytest.raises(Changed, match="no version to go on with"):
        content(source, source.resolve(ref(server)), WEIGHTS)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_stream_that_breaks_is_resumed_in_the_same_version_only(
    ranges: bool, server: WebServer, settings: Settings
) -> None:
    source, server.site.ranges = open_source("http", replace(settings, retries=1)), ranges
    revision = source.resolve(ref(server))
    server.site.cuts = [1, 100_000, 700_000]
    assert content(source, revision, WEIGHTS) == FILES[WEIGHTS]
    assert not server.site.cuts
    server.site.cuts = [100_000]
    stream = source.read(revision, file_of(revision, WEIGHTS), 0, None)
    assert next(stream)
    server.site.files[f"sql/{WEIGHTS}"] = OTHER
    with pytest.raises(Corrupt):
        b"".join(stream)


def test_what_has_no_size_is_read_whole(server: WebServer, source: Source) -> None:
    server.site.ranges = server.site.length = False
    revision = source.resolve(ref(server))
    assert file_of(revision, WEIGHTS).size is None
    assert content(source, revision, WEIGHTS) == FILES[WEIGHTS]


FOLDERS: tuple[tuple[dict[str, bytes], set[str]], ...] = (
    ({"config.json": b"{}"}, {"config.json"}),
    ({CONFIG: b"{}"}, {CONFIG}),
    ({CONFIG: b"{}", "config.json": b"{}", "adapter_model.bin": b"x"}, {CONFIG, "adapter_model.bin"}),
    ({CONFIG: b"{}", WEIGHTS: b"x", "adapter_model.bin": b"x"}, {CONFIG, WEIGHTS}),
)


@pytest.mark.parametrize(("files", "listed"), FOLDERS)
def test_an_adapter_or_else_the_config_of_a_base_is_listed(
    files: dict[str, bytes], listed: set[str], server: WebServer, source: Source
) -> None:
    """Pickled weights where there are no others."""
    server.site.files = {f"a b/ż/{path}": content for path, content in files.items()}
    assert set(sizes(source.resolve(ref(server, "a%20b/%C5%BC")))) == listed


FORBIDS, NONE = (403, "application/xml", b"<Error/>"), (404, "text/html", b"<h1>Not Found</h1>")
REFUSALS: tuple[tuple[tuple[int, str, bytes], dict[str, int], str, Kind, str], ...] = (
    (NONE, {}, "nothing", NotFound, "there is neither"),
    (FORBIDS, {}, "nothing", AccessDenied, "denies access to adapter_config.json"),
    ((200, "text/html", b"<html>login</html>"), {}, "sql", NotFound, "a file for every name"),
    (NONE, {WEIGHTS: 403}, "sql", AccessDenied, r"adapter_model\.safetensors .*403"),
    (FORBIDS, {WEIGHTS: 403}, "sql", AccessDenied, r"adapter_model\.safetensors .*403"),
    (NONE, {"README.md": 403}, "sql", AccessDenied, r"README\.md .*403"),
    (NONE, {CONFIG: 401}, "sql", AccessDenied, r"adapter_config\.json .*401"),
    (NONE, {CONFIG: 416}, "sql", Unreachable, r"adapter_config\.json: .*416"),
    (NONE, {CONFIG: 500}, "sql", Unreachable, r"sql: 127\.0\.0\.1.*500"),
)


@pytest.mark.parametrize(("missing", "statuses", "folder", "kind", "said"), REFUSALS)
def test_a_refusal_is_said_with_its_file(
    missing: Any, statuses: dict[str, int], folder: str, kind: Kind, said: str, server: WebServer, source: Source
) -> None:
    server.site.missing = missing
    server.site.statuses = {f"sql/{name}": status for name, status in statuses.items()}
    server.site.more = lambda _: {"Content-Range": "bytes */1280000"}
    with pytest.raises(kind, match=said) as caught:
        source.resolve(ref(server, folder))
    assert caught.value.message.startswith(str(ref(server, folder)))
    assert caught.value.hint
