"""The commands over a real object store: fetched, locked, judged from the header, and never wrong in the cache."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.core.reference import AdapterRef
from lora_cli.core.snapshot import RemoteFile, Revision
from lora_cli.errors import Corrupt, Unreachable
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.objects import ObjectSource
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import fetch
from tests.faulty_proxy import FaultyProxy
from tests.making import Q_PROJ, write_adapter, write_base_config
from tests.object_servers import S3Server

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("a_folder_and_a_cache_of_its_own")]


@pytest.fixture
def server(seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    return seaweed_server


@pytest.fixture
def bucket(server: S3Server) -> str:
    """A folder in a bucket, which serves as well."""
    return server.place()


def put(server: S3Server, bucket: str, key: str, folder: Path, *, seed: int = 0) -> dict[str, bytes]:
    """An adapter at ``key``."""
    write_adapter(folder, seed=seed, config={"layers_to_transform": [0]})
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.put(bucket, {f"{key}/{name}": content for name, content in files.items()})
    return files


def blobs_are_what_they_are_called(cache: Path) -> bool:
    blobs = [path for path in (cache / "blobs").rglob("*") if path.is_file()]
    return all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


def test_fetch_prints_a_directory_and_the_second_time_downloads_nothing(
    server: S3Server, bucket: str, tmp_path: Path, capsys: Capture
) -> None:
    files = put(server, bucket, "team/sql", tmp_path / "made")
    for word in ("fetched", "cached"):
        assert main(["fetch", f"s3://{bucket}/team/sql/", "--format", "json"]) == 0
        (adapter,) = json.loads(capsys.readouterr().out)["adapters"]
        assert adapter["ref"] == f"s3://{bucket}/team/sql"
        assert adapter["cached"] is (word == "cached")
        directory = Path(adapter["directory"])
        assert {path.name: path.read_bytes() for path in directory.iterdir()} == files


def test_inspect_reads_the_header_alone(
    server: S3Server, bucket: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_adapter(tmp_path / "made", modules={Q_PROJ: (8192, 8192)}, r=32) / WEIGHTS
    server.put(bucket, {f"sql/{path.name}": path.read_bytes() for path in weights.parent.iterdir()})
    read = Reads(monkeypatch)
    assert main(["inspect", f"s3://{bucket}/sql", "--format", "json"]) == 0
    (inspected,) = json.loads(capsys.readouterr().out)["adapters"]
    assert inspected["source"] == f"s3://{bucket}/sql"
    assert 0 < max(stop for path, _, stop in read.ranges if path.endswith(WEIGHTS)) < weights.stat().st_size / 10


def test_a_base_is_read_from_there_too(server: S3Server, bucket: str, tmp_path: Path, capsys: Capture) -> None:
    put(server, bucket, "sql", tmp_path / "made")
    server.put(bucket, {"base/config.json": write_base_config(tmp_path / "base").read_bytes()})
    assert main(["validate", f"s3://{bucket}/sql", "--base", f"s3://{bucket}/base"]) == 0
    assert "1/1 modules apply" in " ".join(capsys.readouterr().out.split())


class Reads:
    """The ranges that the source is asked for, whatever it asks them with; still asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[tuple[str, int, int]] = []
        real = ObjectSource.read

        def read(source: ObjectSource, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> object:
            self.ranges.append((file.path, start, 1 << 60 if stop is None else stop))
            return real(source, revision, file, start, stop)

        monkeypatch.setattr(ObjectSource, "read", read)


def test_a_lock_keeps_what_was_fetched_when_the_bucket_moves_on(
    server: S3Server, bucket: str, tmp_path: Path, capsys: Capture
) -> None:
    put(server, bucket, "sql", tmp_path / "made")
    Path("set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n  - {{name: sql, source: 's3://{bucket}/sql'}}\n"
    )
    assert main(["fetch", "-f", "set.yaml"]) == 0
    first = capsys.readouterr().out
    put(server, bucket, "sql", tmp_path / "made", seed=7)
    assert main(["fetch", "-f", "set.yaml", "--check"]) == 1
    assert WEIGHTS in capsys.readouterr().out + capsys.readouterr().err
    assert main(["fetch", "-f", "set.yaml", "--locked"]) == 0
    assert capsys.readouterr().out == first
    assert main(["--cache-dir", "other", "fetch", "-f", "set.yaml", "--locked"]) in {1, 5}
    assert not list(Path("other/snapshots").rglob(WEIGHTS))
    capsys.readouterr()
    assert main(["fetch", "-f", "set.yaml", "--upgrade"]) == 0
    assert capsys.readouterr().out != first


def test_a_refusal_is_one_message_with_a_hint_and_its_code(
    bucket: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert main(["fetch", f"s3://{bucket}/sql"]) == 3
    out, err = capsys.readouterr()
    assert not out
    assert "does not accept the secret" in err
    assert "hint: check AWS_SECRET_ACCESS_KEY" in err
    assert "hunter2" not in err


@dataclass
class Meddled(Source):
    """A source to which something happens when a file of it is read beyond an offset, so many ``times``."""

    source: Source
    path: str
    offset: int = 0
    happens: Callable[[], object] = lambda: None
    times: int = 1
    read_from: list[int] = field(default_factory=list)

    def resolve(self, ref: AdapterRef) -> Revision:
        return self.source.resolve(ref)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        for chunk in self.source.read(revision, file, start, stop):
            if file.path == self.path:
                self.read_from.append(start)
            yield chunk
            before, start = start, start + len(chunk)
            if file.path == self.path and self.times and before <= self.offset < start:
                self.times -= 1
                self.happens()


def large(seed: int) -> bytes:
    return bytes([seed]) * 1000 + hashlib.shake_256(bytes([seed])).digest(9 << 20)


@pytest.mark.parametrize("times", [1, 3])
def test_an_object_that_is_overwritten_while_it_is_fetched_is_never_mixed_with_its_successor(
    server: S3Server, bucket: str, tmp_path: Path, times: int
) -> None:
    put(server, bucket, "sql", tmp_path / "made")
    server.put(bucket, {f"sql/{WEIGHTS}": large(0)})
    settings = Settings(tmp_path / "cache", timeout_s=10, retries=1, jobs=1)
    store, ref, versions = Store(settings.cache_dir), AdapterRef("s3", f"{bucket}/sql"), iter(range(1, 10))

    def overwrite() -> None:
        server.put(bucket, {f"sql/{WEIGHTS}": large(next(versions))})

    meddled = Meddled(open_source("s3", settings), WEIGHTS, 1 << 20, overwrite, times)
    if times > 1:
        with pytest.raises(Corrupt, match="overwritten"):
            fetch(ref, meddled, store, settings)
        assert not list((tmp_path / "cache" / "snapshots").rglob(WEIGHTS))
        assert blobs_are_what_they_are_called(tmp_path / "cache")
    snapshot = fetch(ref, meddled, store, settings)
    assert (snapshot.directory / WEIGHTS).read_bytes() == large(times)


def test_what_a_broken_run_left_is_gone_on_with_also_when_another_file_changed(
    server: S3Server, bucket: str, tmp_path: Path
) -> None:
    put(server, bucket, "sql", tmp_path / "made")
    server.put(bucket, {f"sql/{WEIGHTS}": large(1), "sql/README.md": b"one"})
    settings = Settings(tmp_path / "cache", timeout_s=10, retries=0, jobs=1)
    store, ref = Store(settings.cache_dir), AdapterRef("s3", f"{bucket}/sql")

    def breaks() -> None:
        raise Unreachable("the network is gone")

    broken = Meddled(open_source("s3", settings), WEIGHTS, 8 << 20, breaks)
    again = Meddled(open_source("s3", settings), WEIGHTS)
    with pytest.raises(Unreachable):
        # The scheduler goes on where a stream broke, as long as it gave something: it must break at once, too.
        fetch(ref, BrokenFor(broken), store, settings)
    server.put(bucket, {"sql/README.md": b"two"})
    snapshot = fetch(ref, again, store, settings)
    assert (snapshot.directory / WEIGHTS).read_bytes() == large(1)
    assert (snapshot.directory / "README.md").read_bytes() == b"two"
    assert min(again.read_from) >= 7 << 20


@dataclass
class BrokenFor(Source):
    """``source`` until it broke once; after that nothing comes any more."""

    source: Meddled
    broken: bool = False

    def resolve(self, ref: AdapterRef) -> Revision:
        return self.source.resolve(ref)

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        if self.broken:
            raise Unreachable("the network is gone")
        try:
            yield from self.source.read(revision, file, start, stop)
        except Unreachable:
            self.broken = True
            raise


def test_a_bucket_with_versions_gives_the_latest_and_forgets_what_is_deleted(
    server: S3Server, tmp_path: Path, capsys: Capture
) -> None:
    bucket = server.bucket()
    server.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    seen = []
    for seed in (1, 2):
        files = put(server, bucket, "sql", tmp_path / "made", seed=seed)
        assert main(["fetch", f"s3://{bucket}/sql"]) == 0
        seen.append((Path(capsys.readouterr().out.strip()) / WEIGHTS).read_bytes() == files[WEIGHTS])
    assert seen == [True, True]
    for name in (CONFIG, WEIGHTS):
        server.client.delete_object(Bucket=bucket, Key=f"sql/{name}")
    assert main(["fetch", f"s3://{bucket}/sql"]) == 3
    assert "there is nothing below sql/" in capsys.readouterr().err


def test_offline_what_was_fetched_is_given_and_anything_else_is_not(
    server: S3Server, bucket: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, bucket, "sql", tmp_path / "made")
    with FaultyProxy(server.endpoint, own_host=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert main(["fetch", f"s3://{bucket}/sql"]) == 0
    first = capsys.readouterr().out
    assert main(["fetch", "--offline", f"s3://{bucket}/sql"]) == 0
    assert capsys.readouterr().out == first
    assert main(["fetch", "--offline", f"s3://{bucket}/other"]) == 3
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    assert main(["fetch", f"s3://{bucket}/sql"]) == 4
    assert "--offline uses the version" in " ".join(capsys.readouterr().err.split())
