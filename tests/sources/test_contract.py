"""What every source promises, on every source."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef, Scheme, below
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Corrupt, NotFound
from lora_cli.fetching.file_selection import latest_checkpoint
from lora_cli.settings import Settings
from lora_cli.sources import NoRanges, Source
from lora_cli.sources.registry import SOURCES, open_source
from tests.hub_content import git_blob_id
from tests.hub_server import Hub
from tests.object_servers import ADMIN, AzureServer, GcsServer, S3Server
from tests.oci_server import Registry, tar_of
from tests.sources.conftest import trust_host
from tests.sources.raw_servers import forget_environment
from tests.web_server import Site, WebServer

FILES = {
    "README.md": b"# SQL\n",
    "adapter_config.json": b'{"peft_type": "LORA"}',
    "adapter_model.safetensors": bytes(range(256)) * 10_000,
    "empty.txt": b"",
    "sub folder/tokenizer #1.json": b"{}",
    "sub folder/żubrówka %41+&.txt": b"text",
}
WEIGHTS = FILES["adapter_model.safetensors"]
# A web server lists nothing: what is found there are the names that an adapter's files have.
WEB_FILES = {
    path: FILES.get(path, b"")
    for path in ("README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json")
}
CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"


@dataclass
class Origin:
    """A source over an origin that a test can write to."""

    source: Source
    ref: AdapterRef
    missing: AdapterRef
    write: Callable[[dict[str, bytes]], None]
    files: Mapping[str, bytes] = field(default_factory=lambda: FILES)

    def file(self, path: str = "adapter_model.safetensors") -> tuple[Revision, RemoteFile]:
        revision = self.source.resolve(self.ref)
        file = revision.file(path)
        assert file is not None
        return revision, file


@pytest.fixture
def on_disk(settings: Settings, tmp_path: Path) -> Origin:
    folder = tmp_path / "adapter_1"

    def write(files: dict[str, bytes]) -> None:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

    here, missing = AdapterRef("file", str(folder)), AdapterRef("file", str(tmp_path / "missing"))
    return Origin(open_source("file", settings), here, missing, write)


@pytest.fixture
def on_the_hub(hub: Hub, settings: Settings) -> Origin:
    def write(files: dict[str, bytes]) -> None:
        hub.add("acme/adapter_1", dict(files))

    here, missing = AdapterRef("hf", "acme/adapter_1"), AdapterRef("hf", "acme/missing")
    return Origin(open_source("hf", settings), here, missing, write)


def _on_s3(server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Origin:
    place = server.place()
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)

    def write(files: dict[str, bytes]) -> None:
        server.put(place, {f"adapter_1/{path}": content for path, content in files.items()})

    here, missing = AdapterRef("s3", f"{place}/adapter_1"), AdapterRef("s3", f"{place}/missing")
    return Origin(open_source("s3", settings), here, missing, write)


@pytest.fixture
def on_seaweed(seaweed_server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Origin:
    return _on_s3(seaweed_server, settings, monkeypatch)


@pytest.fixture
def on_rclone(rclone_server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Origin:
    return _on_s3(rclone_server, settings, monkeypatch)


def _on_the_web(server: WebServer, scheme: Scheme, settings: Settings) -> Origin:
    def write(files: dict[str, bytes]) -> None:
        server.site.files.update({f"adapter_1/{path}": content for path, content in files.items()})

    here, missing = AdapterRef(scheme, f"{server.place}/adapter_1"), AdapterRef(scheme, f"{server.place}/missing")
    return Origin(open_source(scheme, settings), here, missing, write, WEB_FILES)


@pytest.fixture
def on_http(settings: Settings) -> Iterator[Origin]:
    with WebServer(Site()) as server:
        yield _on_the_web(server, "http", settings)


@pytest.fixture
def on_https(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    forget_environment()
    with WebServer(Site(), CERTIFICATE) as server:
        yield _on_the_web(server, "https", settings)
    forget_environment()


@pytest.fixture
def on_gcs(gcs_server: GcsServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Origin:
    bucket = gcs_server.bucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.endpoint)

    def write(files: dict[str, bytes]) -> None:
        gcs_server.put(bucket, {f"adapter_1/{path}": content for path, content in files.items()})

    here, missing = AdapterRef("gs", f"{bucket}/adapter_1"), AdapterRef("gs", f"{bucket}/missing")
    return Origin(open_source("gs", settings), here, missing, write)


@pytest.fixture
def on_azure(azure_server: AzureServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Origin:
    container = azure_server.container()
    for name, value in azure_server.environ.items():
        monkeypatch.setenv(name, value)

    def write(files: dict[str, bytes]) -> None:
        azure_server.put(container, {f"adapter_1/{path}": content for path, content in files.items()})

    here, missing = AdapterRef("az", f"{container}/adapter_1"), AdapterRef("az", f"{container}/missing")
    return Origin(open_source("az", settings), here, missing, write)


@pytest.fixture
def on_s3fs(seaweed_server: S3Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Origin:
    server, place = seaweed_server, seaweed_server.place()
    for name, value in zip(("KEY", "SECRET"), ADMIN, strict=True):
        monkeypatch.setenv(f"LORA_CLI_TOKEN_{name}", value)
    options = {
        "key_env": "LORA_CLI_TOKEN_KEY",
        "secret_env": "LORA_CLI_TOKEN_SECRET",
        "client_kwargs": {"endpoint_url": server.endpoint, "region_name": "us-east-1"},
    }

    def write(files: dict[str, bytes]) -> None:
        server.put(place, {f"adapter_1/{path}": content for path, content in files.items()})

    rule = SourceRule(match="fsspec+s3://*", storage_options=options)
    here, missing = AdapterRef("fsspec", f"s3://{place}/adapter_1"), AdapterRef("fsspec", f"s3://{place}/missing")
    return Origin(open_source("fsspec", settings, rule), here, missing, write)


@pytest.fixture
def on_sftp(
    sftp_server: tuple[str, Path], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Origin:
    """A server that tells times by the second: each write is an hour later."""
    trust_host(sftp_server, tmp_path, monkeypatch)
    (server, served), hours = sftp_server, itertools.count(1_700_000_000, 3600)
    place, folder = f"sftp://{server}/{tmp_path.name}", served / tmp_path.name / "adapter_1"

    def write(files: dict[str, bytes]) -> None:
        for path, content in files.items():
            if not (folder / path).exists() or (folder / path).read_bytes() != content:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
                os.utime(folder / path, (hour := next(hours), hour))

    here, missing = AdapterRef("fsspec", f"{place}/adapter_1"), AdapterRef("fsspec", f"{place}/missing")
    return Origin(open_source("fsspec", settings), here, missing, write)


def _in_a_registry(server: Registry, settings: Settings) -> Origin:
    name = server.name()

    def write(files: dict[str, bytes]) -> None:
        server.push(f"{name}:v1", files)

    here, missing = AdapterRef("oci", f"{server.place}/{name}:v1"), AdapterRef("oci", f"{server.place}/{name}:v2")
    return Origin(open_source("oci", settings), here, missing, write)


@pytest.fixture
def in_a_registry(docker_registry: Registry, settings: Settings) -> Origin:
    return _in_a_registry(docker_registry, settings)


@pytest.fixture
def in_tars(docker_registry: Registry, settings: Settings) -> Origin:
    """Each file in a layer of its own, in all the ways that a tar is compressed."""
    origin, name = _in_a_registry(docker_registry, settings), docker_registry.name()

    def write(files: dict[str, bytes]) -> None:
        kinds = itertools.cycle(("tar", "tar+gzip"))
        layers = [
            docker_registry.layer(name, tar_of({path: data}, kind), f"application/vnd.cncf.model.weight.v1.{kind}")
            for (path, data), kind in zip(files.items(), kinds, strict=False)
        ]
        docker_registry.manifest(f"{name}:v1", {"config": docker_registry.config(name), "layers": layers})

    return replace(origin, ref=AdapterRef("oci", f"{docker_registry.place}/{name}:v1"), write=write)


PLACES = (
    "on_disk",
    "on_the_hub",
    "on_seaweed",
    "on_rclone",
    "on_gcs",
    pytest.param("on_azure", marks=pytest.mark.slow),
    "on_http",
    "on_https",
    "on_sftp",
    "on_s3fs",
    pytest.param("in_a_registry", marks=pytest.mark.slow),
    pytest.param("in_tars", marks=pytest.mark.slow),
)


@pytest.fixture(params=PLACES)
def origin(request: pytest.FixtureRequest) -> Origin:
    """Each source that there is, over a real server."""
    origin: Origin = request.getfixturevalue(request.param)
    origin.write({**FILES, **origin.files})
    return origin


def test_every_source_is_held_to_the_contract() -> None:
    assert set(SOURCES) == {"file", "hf", "s3", "gs", "az", "http", "https", "oci", "fsspec"}


def test_every_file_is_listed_once_in_order_with_its_size(origin: Origin) -> None:
    revision = origin.source.resolve(origin.ref)
    assert {file.path: file.size for file in revision.files} == {path: len(data) for path, data in origin.files.items()}
    assert [file.path for file in revision.files] == sorted(origin.files)
    assert revision.ref == origin.ref
    assert not any(file.defect for file in revision.files)


def test_a_digest_that_is_listed_is_true(origin: Origin) -> None:
    for file in origin.source.resolve(origin.ref).files:
        assert file.sha256 in (None, hashlib.sha256(origin.files[file.path]).hexdigest())
        assert file.git_sha1 in (None, git_blob_id(origin.files[file.path]))


def test_every_file_is_read_whole(origin: Origin) -> None:
    revision = origin.source.resolve(origin.ref)
    assert {f.path: b"".join(origin.source.read(revision, f, 0, None)) for f in revision.files} == origin.files


RANGES = (
    (0, 0), (0, 1), (7, 7), (8, 1000), (1_048_575, 1_048_577), (0, len(WEIGHTS)), (len(WEIGHTS) - 1, None),
    (len(WEIGHTS), None), (len(WEIGHTS), len(WEIGHTS)), (5, len(WEIGHTS) + 5), (9, 3),
)  # fmt: skip


def test_a_range_is_what_a_slice_is(origin: Origin) -> None:
    revision, file = origin.file()
    for start, stop in RANGES:
        chunks = list(origin.source.read(revision, file, start, stop))
        assert b"".join(chunks) == WEIGHTS[start:stop], (start, stop)
        assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks), (start, stop)


def test_a_reader_may_stop_in_the_middle_and_read_again(origin: Origin) -> None:
    revision, file = origin.file()
    for _ in range(5):
        chunk = next(iter(origin.source.read(revision, file, 3, None)))
        assert chunk == WEIGHTS[3 : 3 + len(chunk)]
    assert b"".join(origin.source.read(revision, file, 0, None)) == WEIGHTS


def test_many_threads_read_at_once(origin: Origin) -> None:
    revision, file = origin.file()

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
    revision, file = origin.file()
    origin.write({**FILES, "adapter_model.safetensors": WEIGHTS[::-1]})
    try:
        got = b"".join(origin.source.read(revision, file, 0, None))
    except Corrupt:
        return
    assert got == WEIGHTS


def test_what_is_not_there_is_named_with_a_hint(origin: Origin) -> None:
    with pytest.raises((NotFound, AccessDenied)) as caught:
        origin.source.resolve(origin.missing)
    assert caught.value.exit_code == 3
    assert origin.missing.location in str(caught.value)
    assert caught.value.hint


def test_the_latest_checkpoint_of_a_listing_is_its_folder(origin: Origin) -> None:
    if origin.files is WEB_FILES:
        pytest.skip("a web server does not list its folders")
    names = ("adapter_config.json", "adapter_model.safetensors")
    run = {f"checkpoint-{number}/{name}": b"%d" % number * 1000 for number in (9, 10) for name in names}
    origin.write({**origin.files, **run})
    found = latest_checkpoint(origin.source.resolve(origin.ref))
    assert found.ref == below(origin.ref, "checkpoint-10")
    read = {file.path: b"".join(origin.source.read(found, file, 0, None)) for file in found.files}
    assert read == dict.fromkeys(names, b"10" * 1000)
    asked = origin.source.resolve(found.ref)
    assert [(file.path, file.size, file.sha256) for file in asked.files] == [
        (file.path, file.size, file.sha256) for file in found.files
    ]
