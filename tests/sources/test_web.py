"""Adapters on web servers of every make: what is there, which version, and what is refused."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Changed, LoraCliError, NotFound, Offline, Refused, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.registry import open_source
from lora_cli.sources.web import WebSource
from tests.sources.web_files import ALL, FILES, WEIGHTS, ref, sizes, weights, whole
from tests.web_server import Site, WebServer


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer(Site(dict(FILES))) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=1)


@pytest.fixture
def source(settings: Settings) -> WebSource:
    return WebSource(settings)


def test_what_an_adapter_can_have_is_found_by_a_request_of_one_byte_for_each_name(
    server: WebServer, source: WebSource
) -> None:
    revision = source.resolve(ref(server))
    assert sizes(revision) == ALL
    assert [file.path for file in revision.files] == sorted(ALL)
    assert {asked.method for asked in server.asked} == {"GET"}
    assert {asked.headers["Range"] for asked in server.asked} == {"bytes=0-0"}
    assert len(server.asked) <= 20
    assert not [asked for asked in server.asked if asked.name.endswith((".bin", ".pt"))]
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]


@pytest.mark.parametrize(
    "how",
    [{"ranges": False}, {"etag": ""}, {"etag": "weak"}, {"etag": "", "changed": None}, {"obeys": False}],
    ids=str,
)
def test_servers_that_know_less_are_read_all_the_same(
    how: dict[str, object], server: WebServer, source: WebSource
) -> None:
    for name, value in how.items():
        setattr(server.site, name, value)
    revision = source.resolve(ref(server))
    assert sizes(revision) == ALL
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]
    assert b"".join(source.read(revision, weights(revision), 300, 700)) == FILES[f"sql/{WEIGHTS}"][300:700]


def test_a_base_is_its_config(server: WebServer, source: WebSource) -> None:
    server.site.files["base/config.json"] = b"{}"
    assert sizes(source.resolve(ref(server, "base"))) == {"config.json": 2}


def test_a_size_that_nobody_says_is_unknown(server: WebServer, source: WebSource) -> None:
    server.site.ranges = server.site.length = False
    revision = source.resolve(ref(server))
    assert weights(revision).size is None
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]


def test_what_fails_with_our_probe_is_said_of_the_adapter_and_its_server(server: WebServer, settings: Settings) -> None:
    server.site.statuses["sql/no-such-file.lora-cli"] = 503
    with pytest.raises(Unreachable) as caught:
        WebSource(replace(settings, retries=0)).resolve(ref(server))
    assert caught.value.message.startswith(f"{ref(server)}: 127.0.0.1:")


def test_an_index_without_end_is_refused(server: WebServer, source: WebSource) -> None:
    named = {str(i): f"adapter_model-{i:05}-of-02000.safetensors" for i in range(2000)}
    server.site.files[f"sql/{WEIGHTS}.index.json"] = json.dumps({"weight_map": named}).encode()
    with pytest.raises(Refused, match="over 1000 shards"):
        source.resolve(ref(server))
    assert len(server.asked) < 30


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


def test_shards_are_those_that_the_index_names_and_nothing_else(server: WebServer, source: WebSource) -> None:
    shard = "adapter_model-00001-of-00002.safetensors"
    named = {"a": shard, "b": "adapter_model-00002-of-00002.safetensors", "c": "../../etc/passwd", "d": "x.bin", "e": 7}
    files = server.site.files
    files[f"sql/{WEIGHTS}.index.json"] = json.dumps({"weight_map": named}).encode()
    files[f"sql/{shard}"] = files.pop(f"sql/{WEIGHTS}")
    found = {file.path: file.defect for file in source.resolve(ref(server)).files}
    assert found[shard] == ""
    assert "is listed in the index but missing" in found["adapter_model-00002-of-00002.safetensors"]
    assert not [path for path in found if "passwd" in path or path == "x.bin"]


def test_pickled_weights_are_asked_for_only_where_there_are_no_others(server: WebServer, source: WebSource) -> None:
    server.site.files["sql/adapter_model.bin"] = server.site.files.pop(f"sql/{WEIGHTS}")
    assert "adapter_model.bin" in sizes(source.resolve(ref(server)))


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [
        ((200, "text/html; charset=utf-8", b"<html>app</html>"), None),
        ((200, "application/json", b"{}"), "a file for every name"),
        ((200, "application/octet-stream", b"x"), "a file for every name"),
    ],
)
def test_a_server_that_has_something_for_every_name_is_not_believed(
    missing: tuple[int, str, bytes], wanted: str | None, server: WebServer, source: WebSource
) -> None:
    server.site.missing = missing
    if wanted is None:
        assert sizes(source.resolve(ref(server))) == ALL
    else:
        with pytest.raises(NotFound, match=wanted):
            source.resolve(ref(server))
    server.site.files.clear()
    with pytest.raises(NotFound, match=wanted or "a web page instead of adapter_config.json") as caught:
        source.resolve(ref(server))
    assert caught.value.hint


def test_a_login_page_behind_a_redirect_is_no_adapter(server: WebServer, source: WebSource) -> None:
    server.site.files["login"] = b"<form>"
    server.site.types["login"] = "text/html"
    server.site.redirect = lambda target: None if target == "/login" else "/login"
    with pytest.raises(NotFound, match="a web page"):
        source.resolve(ref(server))


def test_a_store_that_forbids_what_is_not_there_is_read(server: WebServer, source: WebSource) -> None:
    server.site.missing = (403, "application/xml", b"<Error/>")
    assert sizes(source.resolve(ref(server))) == ALL


@pytest.mark.parametrize(
    ("path", "status", "kind", "message"),
    [
        ("sql/adapter_config.json", 403, AccessDenied, "denies access to adapter_config.json"),
        (f"sql/{WEIGHTS}", 403, AccessDenied, f"denies access to {WEIGHTS}"),
        ("sql/README.md", 403, AccessDenied, "denies access to README.md"),
        ("sql/adapter_config.json", 401, AccessDenied, "requires authentication"),
        ("sql/adapter_config.json", 405, NotFound, "does not serve files"),
        ("sql/adapter_config.json", 451, AccessDenied, "denies access"),
        ("sql/adapter_config.json", 500, Unreachable, "answered 500"),
        ("sql/adapter_config.json", 418, Unreachable, "answered 418"),
    ],
)
def test_a_refusal_is_said_with_its_file(
    path: str, status: int, kind: type[LoraCliError], message: str, server: WebServer, settings: Settings
) -> None:
    server.site.statuses[path] = status
    with pytest.raises(kind, match=message) as caught:
        WebSource(Settings(settings.cache_dir, timeout_s=5, retries=0)).resolve(ref(server))
    assert caught.value.hint


def test_weights_that_are_forbidden_are_not_taken_for_missing(server: WebServer, source: WebSource) -> None:
    server.site.missing = (403, "application/xml", b"<Error/>")
    server.site.statuses[f"sql/{WEIGHTS}"] = 403
    with pytest.raises(AccessDenied, match=WEIGHTS):
        source.resolve(ref(server))


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [(403, AccessDenied, "denies access"), (404, Changed, "changed after it was listed"), (500, Unreachable, "500")],
)
def test_a_refusal_after_the_listing_is_an_error_too(
    status: int, kind: type[LoraCliError], message: str, server: WebServer, settings: Settings
) -> None:
    source = WebSource(Settings(settings.cache_dir, timeout_s=5, retries=0))
    revision = source.resolve(ref(server))
    server.site.statuses[f"sql/{WEIGHTS}"] = status
    with pytest.raises(kind, match=message):
        whole(source, revision)


def test_a_missing_folder_is_named_with_a_hint(server: WebServer, source: WebSource) -> None:
    with pytest.raises(NotFound, match=f"{server.place}/nothing") as caught:
        source.resolve(ref(server, "nothing"))
    assert "archives" in caught.value.hint


def test_a_config_alone_is_listed(server: WebServer, source: WebSource) -> None:
    server.site.files = {"sql/adapter_config.json": b"{}"}
    assert sizes(source.resolve(ref(server))) == {"adapter_config.json": 2}


def test_a_redirect_to_another_host_is_followed_without_the_token(
    server: WebServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_TOKEN_ACME", "s3cret")
    with WebServer(Site(dict(FILES))) as storage:
        server.site.token = "s3cret"
        server.site.redirect = lambda target: f"http://{storage.place}{target}?X-Amz-Signature=abc"
        rule = SourceRule(match=f"http://{server.place}/*", token_env="LORA_CLI_TOKEN_ACME")
        source = WebSource(settings, rule)
        revision = source.resolve(ref(server))
        assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]
        assert all(asked.headers.get("Authorization") == "Bearer s3cret" for asked in server.asked)
        assert storage.asked
        assert not any("Authorization" in asked.headers for asked in storage.asked)
        assert "X-Amz-Signature" not in repr(revision)


def test_a_rule_names_the_server_that_answers_in_place_of_the_host(server: WebServer, settings: Settings) -> None:
    rule = SourceRule(match="https://adapters.acme.internal/*", endpoint_url=f"http://{server.place}/")
    asked = AdapterRef("https", "adapters.acme.internal/sql")
    source = WebSource(settings, rule)
    revision = source.resolve(asked)
    assert revision.ref == asked
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]


def test_a_token_that_the_server_does_not_accept_is_named_by_its_variable(
    server: WebServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_TOKEN_ACME", "rotated")
    server.site.token = "s3cret"
    rule = SourceRule(match=f"http://{server.place}/*", token_env="LORA_CLI_TOKEN_ACME")
    with pytest.raises(AccessDenied, match="requires authentication") as caught:
        WebSource(settings, rule).resolve(ref(server))
    assert "the token in LORA_CLI_TOKEN_ACME is invalid" in caught.value.hint
    assert "rotated" not in str(caught.value)


@pytest.mark.parametrize(("value", "message"), [(None, "is not set"), ("two words", "is not a valid token")])
def test_a_token_that_is_none_is_said_without_its_value(
    value: str | None, message: str, server: WebServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("LORA_CLI_TOKEN_ACME", value)
    with pytest.raises(UsageError, match=message) as caught:
        WebSource(settings, SourceRule(match="http://*", token_env="LORA_CLI_TOKEN_ACME")).resolve(ref(server))
    assert "LORA_CLI_TOKEN_ACME" in caught.value.message
    assert "two words" not in str(caught.value)
    assert not server.asked


def test_offline_no_request_is_made(server: WebServer, settings: Settings) -> None:
    source = open_source("http", Settings(settings.cache_dir, offline=True))
    with pytest.raises(Offline):
        source.resolve(ref(server))
    assert not server.asked


def test_a_path_is_asked_for_as_it_is_written(server: WebServer, source: WebSource) -> None:
    server.site.files = {f"a b/ż/{path.removeprefix('sql/')}": content for path, content in FILES.items()}
    revision = source.resolve(ref(server, "a%20b/%C5%BC"))
    assert sizes(revision) == ALL
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]
