"""Adapters on web servers of every make: what is there, which version, and what is refused."""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.manifest import SourceRule
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Offline, Refused, Unreachable, UsageError
from lora_cli.settings import Settings
from lora_cli.sources.web import WebSource
from tests.web_server import Site, WebServer

WEIGHTS = "adapter_model.safetensors"
FILES = {
    "sql/adapter_config.json": b'{"peft_type": "LORA"}',
    f"sql/{WEIGHTS}": bytes(range(256)) * 5000,
    "sql/README.md": b"# SQL\n",
    "sql/tokenizer_config.json": b"",
}


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


def ref(server: WebServer, folder: str = "sql") -> AdapterRef:
    return AdapterRef("http", f"{server.place}/{folder}")


def weights(revision: Revision) -> RemoteFile:
    file = revision.file(WEIGHTS)
    assert file is not None
    return file


def sizes(revision: Revision) -> dict[str, int | None]:
    return {file.path: file.size for file in revision.files}


def whole(source: WebSource, revision: Revision, file: RemoteFile | None = None) -> bytes:
    return b"".join(source.read(revision, file or weights(revision), 0, None))


ALL = {path.removeprefix("sql/"): len(content) for path, content in FILES.items()}


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


def test_a_size_that_nobody_says_is_unknown(server: WebServer, source: WebSource) -> None:
    server.site.ranges = server.site.length = False
    revision = source.resolve(ref(server))
    assert weights(revision).size is None
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]


@pytest.mark.parametrize(
    ("how", "promise", "condition"),
    [
        ({}, "etag", "If-Match"),
        ({"etag": ""}, "date", "If-Unmodified-Since"),
        ({"etag": "weak"}, "date", "If-Unmodified-Since"),
        ({"etag": "weak", "changed": None}, "none", None),
        ({"etag": "", "changed": None}, "none", None),
        ({"etag": "", "changed": 4_000_000_000}, "none", "If-Unmodified-Since"),
    ],
    ids=str,
)
def test_the_id_says_what_holds_the_files_to_their_version(
    how: dict[str, object], promise: str, condition: str | None, server: WebServer, source: WebSource
) -> None:
    for name, value in how.items():
        setattr(server.site, name, value)
    first, again = source.resolve(ref(server)), source.resolve(ref(server))
    assert first.id.partition("-")[0] == promise
    assert (first.id == again.id) is (promise != "none")
    server.asked.clear()
    whole(source, first)
    sent = {name for name in server.asked[0].headers if name.startswith("If-")}
    assert sent == ({condition} if condition else set())


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("how", [{}, {"etag": ""}, {"etag": "weak", "changed": None}], ids=str)
def test_another_version_of_the_same_size_is_corrupt(
    how: dict[str, object], obeys: bool, server: WebServer, source: WebSource
) -> None:
    for name, value in {**how, "obeys": obeys}.items():
        setattr(server.site, name, value)
    revision = source.resolve(ref(server))
    server.site.files[f"sql/{WEIGHTS}"] = FILES[f"sql/{WEIGHTS}"][::-1]
    server.site.changed = 1_700_000_009 if server.site.changed else None
    with pytest.raises(Corrupt, match=WEIGHTS) as caught:
        whole(source, revision)
    assert caught.value.hint


def test_a_version_that_changes_between_two_ranges_is_corrupt(server: WebServer, source: WebSource) -> None:
    revision = source.resolve(ref(server))
    assert b"".join(source.read(revision, weights(revision), 0, 1000)) == FILES[f"sql/{WEIGHTS}"][:1000]
    server.site.files[f"sql/{WEIGHTS}"] = FILES[f"sql/{WEIGHTS}"][::-1]
    with pytest.raises(Corrupt):
        b"".join(source.read(revision, weights(revision), 1000, 2000))


@pytest.mark.parametrize("how", [{}, {"ranges": False}, {"etag": "", "changed": None}], ids=str)
def test_a_stream_that_breaks_is_gone_on_with(how: dict[str, object], server: WebServer, source: WebSource) -> None:
    for name, value in how.items():
        setattr(server.site, name, value)
    revision = source.resolve(ref(server))
    server.site.cuts = [1, 100_000, 700_000]
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]
    assert not server.site.cuts


def test_a_stream_that_breaks_is_not_gone_on_with_in_another_version(server: WebServer, source: WebSource) -> None:
    revision = source.resolve(ref(server))
    server.site.cuts = [100_000]
    stream = source.read(revision, weights(revision), 0, None)
    assert next(stream)
    server.site.files[f"sql/{WEIGHTS}"] = FILES[f"sql/{WEIGHTS}"][::-1]
    with pytest.raises(Corrupt):
        b"".join(stream)


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


def test_by_size_alone_another_size_is_corrupt(server: WebServer, source: WebSource) -> None:
    server.site.etag, server.site.changed = "", None
    revision = source.resolve(ref(server))
    server.site.files[f"sql/{WEIGHTS}"] += b"more"
    with pytest.raises(Corrupt):
        whole(source, revision)


def test_what_is_gone_meanwhile_is_corrupt(server: WebServer, source: WebSource) -> None:
    revision = source.resolve(ref(server))
    del server.site.files[f"sql/{WEIGHTS}"]
    with pytest.raises(Corrupt):
        whole(source, revision)


def test_the_id_changes_with_any_file(server: WebServer, source: WebSource) -> None:
    first = source.resolve(ref(server))
    server.site.files["sql/README.md"] = b"# sql\n"
    assert source.resolve(ref(server)).id != first.id


@pytest.mark.parametrize(
    "say",
    [
        lambda content: {"X-Checksum-Sha256": hashlib.sha256(content).hexdigest().upper()},
        lambda content: {
            "Repr-Digest": f"md5=:AA==:, sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"
        },
    ],
)
def test_a_digest_that_the_server_says_is_the_files(
    say: Callable[[bytes], dict[str, str]], server: WebServer, source: WebSource
) -> None:
    server.site.more = say
    assert weights(source.resolve(ref(server))).sha256 == hashlib.sha256(FILES[f"sql/{WEIGHTS}"]).hexdigest()


def test_shards_are_those_that_the_index_names_and_nothing_else(server: WebServer, source: WebSource) -> None:
    shard = "adapter_model-00001-of-00002.safetensors"
    named = {"a": shard, "b": "adapter_model-00002-of-00002.safetensors", "c": "../../etc/passwd", "d": "x.bin", "e": 7}
    files = server.site.files
    files[f"sql/{WEIGHTS}.index.json"] = json.dumps({"weight_map": named}).encode()
    files[f"sql/{shard}"] = files.pop(f"sql/{WEIGHTS}")
    found = {file.path: file.defect for file in source.resolve(ref(server)).files}
    assert found[shard] == ""
    assert "is not there" in found["adapter_model-00002-of-00002.safetensors"]
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
    with pytest.raises(NotFound, match=wanted or "a web page where adapter_config.json should be") as caught:
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
        ("sql/adapter_config.json", 403, AccessDenied, "forbids adapter_config.json"),
        (f"sql/{WEIGHTS}", 403, AccessDenied, f"forbids {WEIGHTS}"),
        ("sql/README.md", 403, AccessDenied, "forbids README.md"),
        ("sql/adapter_config.json", 401, AccessDenied, "wants to know who asks"),
        ("sql/adapter_config.json", 405, NotFound, "does not hand out files"),
        ("sql/adapter_config.json", 451, AccessDenied, "forbids it"),
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
    monkeypatch.setenv("ACME_TOKEN", "s3cret")
    with WebServer(Site(dict(FILES))) as storage:
        server.site.token = "s3cret"
        server.site.redirect = lambda target: f"http://{storage.place}{target}?X-Amz-Signature=abc"
        rule = SourceRule(f"http://{server.place}/*", token_env="ACME_TOKEN")
        source = WebSource(settings, rule)
        revision = source.resolve(ref(server))
        assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]
        assert revision.access == "private"
        assert all(asked.headers.get("Authorization") == "Bearer s3cret" for asked in server.asked)
        assert storage.asked
        assert not any("Authorization" in asked.headers for asked in storage.asked)
        assert "X-Amz-Signature" not in repr(revision)


def test_a_rule_names_the_server_that_answers_in_place_of_the_host(server: WebServer, settings: Settings) -> None:
    rule = SourceRule("https://adapters.acme.internal/*", endpoint_url=f"http://{server.place}/")
    asked = AdapterRef("https", "adapters.acme.internal/sql")
    source = WebSource(settings, rule)
    revision = source.resolve(asked)
    assert revision.ref == asked
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]


@pytest.mark.parametrize(("value", "message"), [(None, "is not set"), ("two words", "cannot be a token")])
def test_a_token_that_is_none_is_said_without_its_value(
    value: str | None, message: str, server: WebServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("ACME_TOKEN", value)
    with pytest.raises(UsageError, match=message) as caught:
        WebSource(settings, SourceRule("http://*", token_env="ACME_TOKEN")).resolve(ref(server))
    assert "ACME_TOKEN" in caught.value.message
    assert "two words" not in str(caught.value)
    assert not server.asked


def test_offline_no_request_is_made(server: WebServer, settings: Settings) -> None:
    source = WebSource(Settings(settings.cache_dir, offline=True))
    with pytest.raises(Offline):
        source.resolve(ref(server))
    assert not server.asked


def test_a_path_is_asked_for_as_it_is_written(server: WebServer, source: WebSource) -> None:
    server.site.files = {f"a b/ż/{path.removeprefix('sql/')}": content for path, content in FILES.items()}
    revision = source.resolve(ref(server, "a%20b/%C5%BC"))
    assert sizes(revision) == ALL
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """rclone's web server over a folder: ranges and times of change, and no ETag."""
    folder = tmp_path / "served"
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        os.utime(folder / path, (1_700_000_000, 1_700_000_000))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    binary = Path(sys.executable).parent / "rclone"
    options = ["--config", f"{tmp_path}/none", "--addr", place, "--dir-cache-time", "0s"]
    command = [str(binary), "serve", "http", *options, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", int(place.rpartition(":")[2]))) == 0:
                        break
                time.sleep(0.05)
            yield folder, place
        finally:
            process.terminate()


def test_a_real_server_without_etags_is_held_to_the_time_of_change(rclone: tuple[Path, str], source: WebSource) -> None:
    folder, place = rclone
    revision = source.resolve(AdapterRef("http", f"{place}/sql"))
    assert revision.id.startswith("date-")
    assert sizes(revision) == ALL
    assert whole(source, revision) == FILES[f"sql/{WEIGHTS}"]
    (folder / "sql" / WEIGHTS).write_bytes(FILES[f"sql/{WEIGHTS}"][::-1])
    with pytest.raises(Corrupt):
        whole(source, revision)
