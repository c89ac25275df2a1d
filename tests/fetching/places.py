"""One adapter at every remote source, each a real server behind a proxy that can break what comes from it."""

import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef, Scheme
from lora_cli.errors import LoraCliError
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.registry import Sources
from lora_cli.store import Store
from lora_cli.store.verify import verify
from tests.bringing import bring
from tests.faulty_proxy import Answer, FaultyProxy
from tests.fetching.desk import CONFIG, MIB, README, WEIGHTS
from tests.oci_server import digest_of
from tests.sources.conftest import trust_host
from tests.web_server import Site, WebServer

FILES = {CONFIG: b'{"peft_type": "LORA"}', WEIGHTS: os.urandom(3 * MIB), README: b"# SQL\n"}
OTHERS = {**FILES, WEIGHTS: FILES[WEIGHTS][::-1]}
CERTIFICATE = Path(__file__).parents[1] / "sources/tls/localhost.pem"


@dataclass
class Place:
    """Where ``FILES`` are: at ``front`` they are listed, through ``proxy`` their weights come.

    ``listing`` and ``weights`` match the requests for these. ``endless`` makes of a page of the listing one that
    another follows, None where there are no pages. ``environ`` is what a process needs to find it. ``ranges`` says
    that the server knows what a range is.
    """

    ref: AdapterRef
    settings: Settings
    proxy: FaultyProxy
    front: FaultyProxy
    write: Callable[[Mapping[str, bytes]], None]
    listing: str = ""
    weights: str = ""
    endless: Callable[[Answer], Answer] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True

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

    def mend(self) -> None:
        self.proxy.mend()
        self.front.mend()

    def recovers(self, *, resumed: bool = False, files: Mapping[str, bytes] = FILES) -> None:
        """Without the fault all of it comes, and with ``resumed`` the weights from where they were."""
        partial = partial_bytes(self.cache)
        self.mend()
        fetched = self.bring()
        assert {path.name: path.read_bytes() for path in fetched.snapshot.directory.iterdir()} == files
        check_cache(self.cache, whole=True)
        assert partial_bytes(self.cache) == 0
        if resumed:
            assert partial >= MIB
            assert self.proxy.raw or not self.ranges or min(self.starts()) == partial


def partial_bytes(cache: Path) -> int:
    """Bytes of the longest partial download there."""
    sizes = [0]
    for path in (cache / "tmp").rglob("*"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return max(sizes)


def check_cache(cache: Path, *, whole: bool) -> None:
    """Every blob is what its name says, every snapshot complete; none is there but after a fetch that ended well."""
    good = {hashlib.sha256(data).hexdigest() for files in (FILES, OTHERS) for data in files.values()}
    assert {path.name for path in (cache / "blobs").rglob("*") if path.is_file()} <= good
    snapshots = list((cache / "snapshots/sha256").glob("*"))
    for snapshot in snapshots:
        assert {path.name: path.read_bytes() for path in snapshot.iterdir()} in (FILES, OTHERS)
    refs = [path for path in (cache / "refs").rglob("*") if path.is_file()]
    assert bool(refs) == bool(snapshots) == whole
    assert not any(one.problem for one in verify(Store(cache)))


def at_hub(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    hub = request.getfixturevalue("hub")
    with FaultyProxy(hub.endpoint) as front, FaultyProxy(hub.cdn) as proxy:
        hub.cdn = proxy.url

        def write(files: Mapping[str, bytes]) -> None:
            hub.add("acme/sql", dict(files))

        ref, found = AdapterRef("hf", "acme/sql"), replace(settings, hub_endpoint=front.url)
        yield Place(ref, found, proxy, front, write, "/revision/", "/lfs/", environ={"HF_ENDPOINT": front.url})


def _more_xml(answer: Answer) -> Answer:
    """A page of S3's XML that another one follows."""
    body = re.sub(rb"<(IsTruncated|NextContinuationToken)>[^<]*</\1>", b"", answer.body)
    more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
    return replace(answer, body=body.replace(b"</ListBucketResult>", more))


def _in_bucket(
    scheme: Scheme,
    bucket: str,
    settings: Settings,
    proxy: FaultyProxy,
    environ: Mapping[str, str],
    put: Callable[[str, dict[str, bytes], dict[str, str]], object],
) -> Iterator[Place]:
    def write(files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            put(bucket, {f"sql/{path}": data}, {"sha256": hashlib.sha256(data).hexdigest()})

    ref, weights = AdapterRef(scheme, f"{bucket}/sql"), "GET .*adapter.{1,3}model"
    with proxy:
        yield Place(ref, settings, proxy, proxy, write, "list-type|comp=list", weights, _more_xml, environ)


def at_s3(
    request: pytest.FixtureRequest, settings: Settings, fixture: str = "seaweed_server", ranges: bool = True
) -> Iterator[Place]:
    server = request.getfixturevalue(fixture)
    proxy = FaultyProxy(server.endpoint, own_host=True)
    environ = {**server.environ, "AWS_ENDPOINT_URL": proxy.url}

    def put(bucket: str, objects: dict[str, bytes], metadata: dict[str, str]) -> None:
        server.put(bucket, objects, Metadata=metadata)

    for place in _in_bucket("s3", server.bucket(), settings, proxy, environ, put):
        yield replace(place, ranges=ranges)


def at_rclone(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    """It answers 200 to a range, with the range alone in it: neither all of the file nor what 206 would say."""
    yield from at_s3(request, settings, "rclone_server", ranges=False)


def at_gs(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    server = request.getfixturevalue("gcs_server")
    proxy = FaultyProxy(server.endpoint)
    environ = {"STORAGE_EMULATOR_HOST": proxy.url}
    yield from _in_bucket("gs", server.bucket(), settings, proxy, environ, server.put)


def at_az(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    server = request.getfixturevalue("azure_server")
    proxy = FaultyProxy(server.endpoint.rpartition("/")[0])
    environ = {**server.environ, "AZURE_STORAGE_ENDPOINT": f"{proxy.url}/{server.account}"}
    yield from _in_bucket("az", server.container(), settings, proxy, environ, server.put)


def at_https(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    site = Site(more=lambda data: {"X-Checksum-Sha256": hashlib.sha256(data).hexdigest()})

    def write(files: Mapping[str, bytes]) -> None:
        site.files.update({f"sql/{path}": data for path, data in files.items()})

    listing, weights = f"{CONFIG} bytes=0-0$", f"GET .*{WEIGHTS} (?!bytes=0-0$)"
    with WebServer(site) as server, FaultyProxy(server.place, certificate=CERTIFICATE) as proxy:
        ref, environ = AdapterRef("https", f"{proxy.place}/sql"), {"SSL_CERT_FILE": str(CERTIFICATE)}
        yield Place(ref, settings, proxy, proxy, write, listing, weights, environ=environ)


def at_oci(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    registry = request.getfixturevalue("docker_registry")
    name = registry.name()

    def write(files: Mapping[str, bytes]) -> None:
        registry.push(f"{name}:v1", files)

    weights = "|".join(digest_of(files[WEIGHTS]) for files in (FILES, OTHERS))
    with FaultyProxy(registry.place) as proxy:
        ref = AdapterRef("oci", f"{proxy.place}/{name}:v1")
        yield Place(ref, settings, proxy, proxy, write, "/manifests/", f"GET .*/blobs/({weights})")


def at_sftp(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Place]:
    upstream, served = request.getfixturevalue("sftp_server")
    home, hours = settings.cache_dir.parent, itertools.count(1_700_000_000, 3600)
    folder = served / home.name / "sql"

    def write(files: Mapping[str, bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            if not (folder / path).exists() or (folder / path).read_bytes() != data:
                (folder / path).write_bytes(data)
                # SFTP tells times by the second: an hour each time is a change that it can tell.
                os.utime(folder / path, (hour := next(hours), hour))

    with FaultyProxy(upstream, raw=True) as proxy:
        trust_host((proxy.place, served), home, request.getfixturevalue("monkeypatch"))
        ref = AdapterRef("fsspec", f"sftp://{proxy.place}/{home.name}/sql")
        # One job has one connection, which is then the one that breaks.
        yield Place(ref, replace(settings, jobs=1), proxy, proxy, write)


PLACES: Mapping[str, Callable[[pytest.FixtureRequest, Settings], Iterator[Place]]] = {
    "hub": at_hub,
    "s3": at_s3,
    "rclone": at_rclone,
    "gs": at_gs,
    "az": at_az,
    "https": at_https,
    "oci": at_oci,
    "sftp": at_sftp,
}
"""Every remote source; the local one has no network that could break."""
WEB = [name for name in PLACES if name != "sftp"]
"""Those that speak HTTP."""
CLIENTS = [name for name in WEB if name not in {"rclone", "az", "oci"}]
"""One for each client of ours: where the fault is in how it waits, a second server of it says nothing new."""
