"""One adapter at every source, each remote one a real server behind a proxy that can break what comes from it."""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import LoraCliError
from lora_cli.fetching.pipeline import Fetched
from lora_cli.refs.reference import AdapterRef, Scheme
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import Sources, open_source
from lora_cli.store import Store
from lora_cli.store.inventory import verify
from tests.bringing import bring
from tests.faulty_proxy import FaultyProxy
from tests.fetching.desk import CONFIG, MIB, README, WEIGHTS
from tests.oci_server import digest_of, tar_of
from tests.sources.conftest import trust_host
from tests.sources.raw_servers import CERTIFICATE, forget_environment
from tests.web_server import Site, WebServer

FILES = {CONFIG: b'{"peft_type": "LORA"}', WEIGHTS: os.urandom(3 * MIB), README: b"# SQL\n"}


@dataclass(kw_only=True)
class Origin:
    """Where ``ref`` is, and how files get there; ``environ`` and ``rule`` are what a user needs to reach it."""

    ref: AdapterRef
    settings: Settings
    write: Callable[[Mapping[str, bytes]], None]
    environ: Mapping[str, str] = field(default_factory=dict)
    rule: SourceRule | None = None

    @cached_property
    def source(self) -> Source:
        """The source that reads it."""
        return open_source(self.ref.scheme, self.settings, self.rule)


@dataclass(kw_only=True)
class Place(Origin):
    """Where ``FILES`` are: at ``front`` they are listed, through ``proxy`` their weights come.

    ``listing`` and ``weights`` match the requests for these.
    """

    proxy: FaultyProxy
    front: FaultyProxy
    listing: str = ""
    weights: str = ""

    @property
    def cache(self) -> Path:
        return self.settings.cache_dir

    def bring(self, **settings: object) -> Fetched:
        """A fetch of it, by sources that know nothing of an earlier one."""
        now = replace(self.settings, **settings)  # type: ignore[arg-type]
        return bring(self.ref, Sources(now).of(self.ref), Store(now.cache_dir), now)

    def code(self, **settings: object) -> int:
        """The exit code of that; anything that is no message of ours is raised. Nothing wrong is in the cache then."""
        found = 0
        try:
            self.bring(**settings)
        except LoraCliError as error:
            found = error.exit_code
        check_cache(self.cache, whole=found == 0)
        return found

    def asked(self, what: str) -> list[str]:
        """The requests at its front that match."""
        return [asked.line for asked in self.front.asked if re.search(what, asked.line)]

    def starts(self) -> list[int]:
        """The first byte of each range of weights that was asked for."""
        return [asked.start for asked in self.proxy.asked if re.search(self.weights, asked.line)]

    def recovers(self, *, resumed: bool = False) -> None:
        """Without the fault all of it comes, and with ``resumed`` the weights from where they were."""
        partial = partial_bytes(self.cache)
        self.proxy.mend()
        self.front.mend()
        fetched = self.bring()
        assert {path.name: path.read_bytes() for path in fetched.snapshot.directory.iterdir()} == FILES
        check_cache(self.cache, whole=True)
        assert partial_bytes(self.cache) == 0
        if resumed:
            assert partial >= MIB
            assert self.proxy.raw or min(self.starts()) == partial


def partial_bytes(cache: Path) -> int:
    """Bytes of the longest partial download there."""
    sizes = [0]
    for path in (cache / "tmp").rglob("*"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return max(sizes)


def check_cache(cache: Path, *, whole: bool) -> None:
    """Every blob is what its name says, every snapshot complete; none is there but after a fetch that ended well."""
    good = {hashlib.sha256(data).hexdigest() for data in FILES.values()}
    assert {path.name for path in (cache / "blobs").rglob("*") if path.is_file()} <= good
    snapshots = list((cache / "snapshots/sha256").glob("*"))
    for snapshot in snapshots:
        assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == FILES
    refs = [path for path in (cache / "refs").rglob("*") if path.is_file()]
    assert bool(refs) == bool(snapshots) == whole
    assert not any(one.problem for one in verify(Store(cache)))


def at_file(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Origin]:
    folder = settings.cache_dir.parent / "sql"
    yield Origin(ref=AdapterRef("file", str(folder)), settings=settings, write=_writer(folder))


def _writer(folder: Path) -> Callable[[Mapping[str, bytes]], None]:
    """Writes into a folder. SFTP tells times by the second: an hour for each change is one that it can tell."""
    hours = itertools.count(1_700_000_000, 3600)

    def write(files: Mapping[str, bytes]) -> None:
        for file, data in ((folder / path, data) for path, data in files.items()):
            if not file.exists() or file.read_bytes() != data:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                os.utime(file, (hour := next(hours), hour))

    return write


def at_hub(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    hub = request.getfixturevalue("hub")
    with FaultyProxy(hub.endpoint) as front, FaultyProxy(hub.cdn) as proxy:
        hub.cdn = proxy.url
        yield Place(
            ref=AdapterRef("hf", "acme/sql"), settings=replace(settings, hub_endpoint=front.url),
            write=lambda files: hub.add("acme/sql", dict(files)), environ={"HF_ENDPOINT": front.url},
            proxy=proxy, front=front, listing="/revision/", weights="/lfs/",
        )  # fmt: skip


def _in_bucket(
    ref: AdapterRef,
    settings: Settings,
    proxy: FaultyProxy,
    environ: Mapping[str, str],
    put: Callable[[str, dict[str, bytes], dict[str, str]], object],
) -> Iterator[Place]:
    folder = ref.location.removesuffix("/sql")

    def write(files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            put(folder, {f"sql/{path}": data}, {"sha256": hashlib.sha256(data).hexdigest()})

    with proxy:
        yield Place(
            ref=ref, settings=settings, write=write, environ=environ, proxy=proxy, front=proxy,
            listing="list-type|comp=list", weights="GET .*adapter.{1,3}model",
        )  # fmt: skip


def at_s3(request: pytest.FixtureRequest, settings: Settings, fixture: str = "seaweed_server") -> Iterator[Place]:
    server = request.getfixturevalue(fixture)
    proxy = FaultyProxy(server.endpoint, own_host=True)
    environ = {**server.environ, "AWS_ENDPOINT_URL": proxy.url}

    def put(bucket: str, objects: dict[str, bytes], metadata: dict[str, str]) -> None:
        server.put(bucket, objects, Metadata=metadata)

    yield from _in_bucket(AdapterRef("s3", f"{server.place()}/sql"), settings, proxy, environ, put)


def at_rclone(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    """It answers 200 to a range, with the range alone in it: neither all of the file nor what 206 would say."""
    yield from at_s3(request, settings, "rclone_server")


def at_s3fs(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    for place in at_s3(request, settings):
        client = {"endpoint_url": place.proxy.url, "region_name": "us-east-1"}
        options = {"key_env": "AWS_ACCESS_KEY_ID", "secret_env": "AWS_SECRET_ACCESS_KEY", "client_kwargs": client}
        rule = SourceRule(match="fsspec+s3://*", storage_options=options)
        yield replace(place, ref=AdapterRef("fsspec", str(place.ref)), rule=rule)


def at_gs(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    server = request.getfixturevalue("gcs_server")
    proxy = FaultyProxy(server.endpoint)
    ref, environ = AdapterRef("gs", f"{server.bucket()}/sql"), {"STORAGE_EMULATOR_HOST": proxy.url}
    yield from _in_bucket(ref, settings, proxy, environ, server.put)


def at_az(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    server = request.getfixturevalue("azure_server")
    proxy = FaultyProxy(server.endpoint.rpartition("/")[0])
    environ = {**server.environ, "AZURE_STORAGE_ENDPOINT": f"{proxy.url}/{server.account}"}
    yield from _in_bucket(AdapterRef("az", f"{server.container()}/sql"), settings, proxy, environ, server.put)


def at_https(
    request: pytest.FixtureRequest, settings: Settings, certificate: Path | None = CERTIFICATE
) -> Iterator[Place]:
    site = Site(more=lambda data: {"X-Checksum-Sha256": hashlib.sha256(data).hexdigest()})
    scheme: Scheme = "https" if certificate else "http"

    def write(files: Mapping[str, bytes]) -> None:
        site.files.update({f"sql/{path}": data for path, data in files.items()})

    with WebServer(site) as server, FaultyProxy(server.place, certificate=certificate) as proxy:
        yield Place(
            ref=AdapterRef(scheme, f"{proxy.place}/sql"), settings=settings, write=write,
            environ={"SSL_CERT_FILE": str(CERTIFICATE)}, proxy=proxy, front=proxy,
            listing=f"{CONFIG} bytes=0-0$", weights=f"GET .*{WEIGHTS} (?!bytes=0-0$)",
        )  # fmt: skip


def at_http(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    yield from at_https(request, settings, None)


def at_oci(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    registry = request.getfixturevalue("docker_registry")
    name = registry.name()
    with FaultyProxy(registry.place) as proxy:
        yield Place(
            ref=AdapterRef("oci", f"{proxy.place}/{name}:v1"), settings=settings,
            write=lambda files: registry.push(f"{name}:v1", files), proxy=proxy, front=proxy,
            listing="/manifests/", weights=f"GET .*/blobs/{digest_of(FILES[WEIGHTS])}",
        )  # fmt: skip


def in_tars(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    """Each file in a layer of its own, in all the ways that a tar is compressed."""
    registry = request.getfixturevalue("docker_registry")
    for place in at_oci(request, settings):
        tag = place.ref.location.partition("/")[2]
        name = tag.partition(":")[0]

        def write(files: Mapping[str, bytes], name: str = name, tag: str = tag) -> None:
            layers = [
                registry.layer(name, tar_of({path: data}, kind), f"application/vnd.cncf.model.weight.v1.{kind}")
                for (path, data), kind in zip(files.items(), itertools.cycle(("tar", "tar+gzip")), strict=False)
            ]
            registry.manifest(tag, {"config": registry.config(name), "layers": layers})

        yield replace(place, write=write)


def at_sftp(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    upstream, served = request.getfixturevalue("sftp_server")
    home = settings.cache_dir.parent
    with FaultyProxy(upstream, raw=True) as proxy:
        trust_host((proxy.place, served), home, request.getfixturevalue("monkeypatch"))
        # One job has one connection, which is then the one that breaks.
        yield Place(
            ref=AdapterRef("fsspec", f"sftp://{proxy.place}/{home.name}/sql"), settings=replace(settings, jobs=1),
            write=_writer(served / home.name / "sql"), proxy=proxy, front=proxy,
        )  # fmt: skip


PLACES: Mapping[str, Callable[[pytest.FixtureRequest, Settings], Iterator[Place]]] = {
    "hub": at_hub,
    "s3": at_s3,
    "gs": at_gs,
    "az": at_az,
    "https": at_https,
    "oci": at_oci,
    "sftp": at_sftp,
}
"""Every remote source."""
ORIGINS = {**PLACES, "rclone": at_rclone, "file": at_file, "http": at_http, "s3fs": at_s3fs, "tars": in_tars}
"""Every source, also those that differ from another one only in how they are read."""
WEB = [name for name in PLACES if name != "sftp"]
"""Those that speak HTTP."""
CLIENTS = [name for name in WEB if name not in {"az", "oci"}]
"""One for each client of ours: where the fault is in how it waits, a second server of it says nothing new."""


@contextmanager
def standing(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Any]:
    """The one of ``ORIGINS`` that a fixture's parameter names, as a user finds it."""
    with contextmanager(ORIGINS[request.param])(request, settings) as origin:
        for name, value in origin.environ.items():
            request.getfixturevalue("monkeypatch").setenv(name, value)
        forget_environment()
        yield origin
    forget_environment()
