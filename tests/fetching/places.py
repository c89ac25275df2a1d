"""One adapter at every remote source, each a real server behind a proxy that can break what comes from it."""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import LoraCliError
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources import retries
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.verify import verify
from tests.bringing import bring
from tests.faulty_proxy import Answer, FaultyProxy
from tests.hub_server import Hub
from tests.object_servers import AzureServer, GcsServer, S3Server
from tests.oci_server import Registry, digest_of
from tests.sources.conftest import trust_host
from tests.sources.raw_servers import forget_environment
from tests.web_server import Site, WebServer

MIB = 1 << 20
CONFIG, WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"
FILES = {CONFIG: b'{"peft_type": "LORA"}', WEIGHTS: os.urandom(3 * MIB), README: b"# SQL\n"}
OTHERS = {**FILES, WEIGHTS: FILES[WEIGHTS][::-1]}
CERTIFICATE = Path(__file__).parents[1] / "sources/tls/localhost.pem"

Write = Callable[[Mapping[str, bytes]], None]


@dataclass
class Place:
    """Where ``FILES`` are: at ``front`` they are listed, through ``proxy`` their weights come.

    ``listing`` and ``weights`` match the requests for these. ``endless`` makes of a page of the listing one that
    another follows, None where there are no pages. ``environ`` is what a process needs to find it. ``raw`` protocols
    are broken by the bytes of a connection. ``ranges`` says that the server knows what a range is.
    """

    ref: AdapterRef
    settings: Settings
    proxy: FaultyProxy
    front: FaultyProxy
    write: Write
    listing: str = ""
    weights: str = ""
    endless: Callable[[Answer], Answer] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True

    @property
    def raw(self) -> bool:
        return self.proxy.raw

    @property
    def cache(self) -> Path:
        return self.settings.cache_dir

    def bring(self, **settings: object) -> Fetched:
        """A fetch of it, by sources that know nothing of an earlier one."""
        now = replace(self.settings, **settings)  # type: ignore[arg-type]
        return bring(self.ref, Sources(now).of(self.ref), Store(now.cache_dir), now)

    def code(self, **settings: object) -> int:
        """The exit code of that; anything that is no message of ours is raised. Nothing wrong is in the cache then."""
        try:
            self.bring(**settings)
        except LoraCliError as error:
            found = error.exit_code
        else:
            found = 0
        check_cache(self.cache, whole=found == 0)
        return found

    def starts(self) -> list[int]:
        """The first byte of each range of weights that was asked for."""
        return [asked.start for asked in self.proxy.asked if re.search(self.weights, asked.line)]

    def mend(self) -> None:
        self.proxy.mend()
        self.front.mend()

    def recovers(self, *, resumed: bool = False, files: Mapping[str, bytes] = FILES) -> None:
        """Without the fault all of it comes, and with ``resumed`` the weights from where they were."""
        partial = partial_bytes(self.cache)
        self.mend()
        fetched = self.bring()
        held = {path.name: path.read_bytes() for path in fetched.snapshot.directory.iterdir()}
        assert held == files
        check_cache(self.cache, whole=True)
        assert partial_bytes(self.cache) == 0
        if resumed:
            assert partial >= MIB
            assert self.raw or not self.ranges or min(self.starts()) == partial


def partial_bytes(cache: Path) -> int:
    """Bytes of the longest partial download there."""
    sizes = [0]
    for path in (cache / "tmp").rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:
            continue
    return max(sizes)


def check_cache(cache: Path, *, whole: bool) -> None:
    """Every blob is what its name says, every snapshot complete; none is there but after a fetch that ended well."""
    good = {hashlib.sha256(data).hexdigest() for files in (FILES, OTHERS) for data in files.values()}
    blobs = [path for path in (cache / "blobs").rglob("*") if path.is_file()]
    for path in blobs:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert path.name in good
    snapshots = list((cache / "snapshots/sha256").glob("*"))
    for snapshot in snapshots:
        held = {path.name: path.read_bytes() for path in snapshot.iterdir()}
        assert held in (FILES, OTHERS)
    assert bool(snapshots) == whole
    refs = [path for path in (cache / "refs").rglob("*") if path.is_file()]
    assert bool(refs) == whole
    assert not any(one.problem for one in verify(Store(cache)))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pauses between tries, in less time."""
    monkeypatch.setattr(retries, "LONGEST_BACKOFF_S", 0.02)


@pytest.fixture
def patient(tmp_path: Path, patience: None) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=2, keep_free=0)


@pytest.fixture
def at_hub(patient: Settings) -> Iterator[Place]:
    with ExitStack() as stack:
        hub = stack.enter_context(Hub())
        front = stack.enter_context(FaultyProxy(hub.endpoint))
        proxy = stack.enter_context(FaultyProxy(hub.cdn))
        hub.cdn = proxy.url

        def write(files: Mapping[str, bytes]) -> None:
            hub.add("acme/sql", dict(files))

        yield Place(
            AdapterRef("hf", "acme/sql"),
            replace(patient, hub_endpoint=front.url),
            proxy,
            front,
            write,
            listing="/revision/",
            weights="/lfs/",
            environ={"HF_ENDPOINT": front.url},
        )


def _more_xml(answer: Answer) -> Answer:
    """A page of S3's XML that another one follows."""
    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
    body = re.sub(
        rb"<IsTruncated>\w+</IsTruncated>|<NextContinuationToken>[^<]*</NextContinuationToken>", b"", answer.body
    )
    return Answer(answer.status, answer.headers, body.replace(b"</ListBucketResult>", more))


@pytest.fixture
def at_s3(seaweed_server: S3Server, patient: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    yield from _at_s3(seaweed_server, patient, monkeypatch)


@pytest.fixture
def at_rclone(rclone_server: S3Server, patient: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """It answers 200 to a range, with the range alone in it: neither all of the file nor what 206 would say."""
    for place in _at_s3(rclone_server, patient, monkeypatch):
        yield replace(place, ranges=False)


def _at_s3(server: S3Server, patient: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    bucket = server.bucket()

    def write(files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            said = {"sha256": hashlib.sha256(data).hexdigest()}
            server.put(bucket, {f"sql/{path}": data}, Metadata=said)

    with FaultyProxy(server.endpoint, own_host=True) as proxy:
        environ = {**server.environ, "AWS_ENDPOINT_URL": proxy.url}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield Place(
            AdapterRef("s3", f"{bucket}/sql"),
            patient,
            proxy,
            proxy,
            write,
            listing="list-type",
            weights="GET .*adapter.{1,3}model",
            endless=_more_xml,
            environ=environ,
        )


@pytest.fixture
def at_gs(gcs_server: GcsServer, patient: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    bucket = gcs_server.bucket()

    def write(files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            gcs_server.put(bucket, {f"sql/{path}": data}, {"sha256": hashlib.sha256(data).hexdigest()})

    with FaultyProxy(gcs_server.endpoint) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield Place(
            AdapterRef("gs", f"{bucket}/sql"),
            patient,
            proxy,
            proxy,
            write,
            listing="list-type",
            weights="GET .*adapter.{1,3}model",
            endless=_more_xml,
            environ={"STORAGE_EMULATOR_HOST": proxy.url},
        )


def _more_of_azure(answer: Answer) -> Answer:
    """A page of Azure's XML that another one follows."""
    body = re.sub(rb"<NextMarker ?/>|<NextMarker>[^<]*</NextMarker>", b"", answer.body)
    more = b"<NextMarker>again</NextMarker></EnumerationResults>"
    return Answer(answer.status, answer.headers, body.replace(b"</EnumerationResults>", more))


@pytest.fixture
def at_az(azure_server: AzureServer, patient: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    container = azure_server.container()

    def write(files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            azure_server.put(container, {f"sql/{path}": data}, {"sha256": hashlib.sha256(data).hexdigest()})

    with FaultyProxy(azure_server.endpoint.rpartition("/")[0]) as proxy:
        environ = {**azure_server.environ, "AZURE_STORAGE_ENDPOINT": f"{proxy.url}/{azure_server.account}"}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield Place(
            AdapterRef("az", f"{container}/sql"),
            patient,
            proxy,
            proxy,
            write,
            listing="comp=list",
            weights="GET .*adapter.{1,3}model",
            endless=_more_of_azure,
            environ=environ,
        )


@pytest.fixture
def at_https(patient: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    site = Site(more=lambda data: {"X-Checksum-Sha256": hashlib.sha256(data).hexdigest()})
    forget_environment()

    def write(files: Mapping[str, bytes]) -> None:
        site.files.update({f"sql/{path}": data for path, data in files.items()})

    with WebServer(site) as server, FaultyProxy(server.place, certificate=CERTIFICATE) as proxy:
        yield Place(
            AdapterRef("https", f"{proxy.place}/sql"),
            patient,
            proxy,
            proxy,
            write,
            listing=f"{CONFIG} bytes=0-0$",
            weights=f"GET .*{WEIGHTS} (?!bytes=0-0$)",
            environ={"SSL_CERT_FILE": str(CERTIFICATE)},
        )
    forget_environment()


@pytest.fixture
def at_oci(docker_registry: Registry, patient: Settings) -> Iterator[Place]:
    name = docker_registry.name()

    def write(files: Mapping[str, bytes]) -> None:
        docker_registry.push(f"{name}:v1", files)

    weights = "|".join(digest_of(files[WEIGHTS]) for files in (FILES, OTHERS))
    with FaultyProxy(docker_registry.place) as proxy:
        ref = AdapterRef("oci", f"{proxy.place}/{name}:v1")
        yield Place(ref, patient, proxy, proxy, write, listing="/manifests/", weights=f"GET .*/blobs/({weights})")


@pytest.fixture
def at_sftp(
    sftp_server: tuple[str, Path], patient: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    (upstream, served), hours = sftp_server, itertools.count(1_700_000_000, 3600)
    folder = served / tmp_path.name / "sql"

    def write(files: Mapping[str, bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            if not (folder / path).exists() or (folder / path).read_bytes() != data:
                (folder / path).write_bytes(data)
                # SFTP tells times by the second: an hour each time is a change that it can tell.
                os.utime(folder / path, (hour := next(hours), hour))

    with FaultyProxy(upstream, raw=True) as proxy:
        trust_host((proxy.place, served), tmp_path, monkeypatch)
        ref = AdapterRef("fsspec", f"sftp://{proxy.place}/{tmp_path.name}/sql")
        # One job has one connection, which is then the one that breaks.
        yield Place(ref, replace(patient, jobs=1), proxy, proxy, write)


PLACES = ("at_hub", "at_s3", "at_rclone", "at_gs", "at_az", "at_https", "at_oci", "at_sftp")
"""Every remote source; the local one has no network that could break."""
WEB = PLACES[:-1]
"""Those that speak HTTP."""
CLIENTS = tuple(place for place in WEB if place not in {"at_rclone", "at_az", "at_oci"})
"""One for each client of ours: where the fault is in how it waits, a second server of it says nothing new."""


def place_of(request: pytest.FixtureRequest) -> Place:
    """The place that the fixture's parameter names, with ``FILES`` there."""
    place: Place = request.getfixturevalue(request.param)
    place.write(FILES)
    return place
