"""An adapter on a web server is one version: what holds it to that, and what happens when it changes."""

import base64
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import Changed, Corrupt
from lora_cli.settings import Settings
from lora_cli.sources.web import WebSource, check_pin
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


@pytest.mark.parametrize(("headers", "found"), [({"ETag": '"b"'}, 'etag "b"'), ({}, "unknown")])
def test_what_changed_is_told_with_both_versions(headers: dict[str, str], found: str) -> None:
    check_pin('etag "a"', {"ETag": '"a"'}, "it")
    with pytest.raises(Changed, match=f'\\(version {found}, was etag "a"\\)'):
        check_pin('etag "a"', headers, "it")
