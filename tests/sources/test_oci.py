"""Adapters in a registry: the layouts, what ORAS pushes, indexes, tokens, credentials, and what is kept of a tar."""

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lora_cli.core.reference import AdapterRef, parse
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, Corrupt, LoraCliError, NotFound, Refused, UsageError
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources.oci import OciSource
from lora_cli.store import Store
from tests.answering import Asked, Reply, answering
from tests.bringing import bring
from tests.faulty_proxy import FaultyProxy
from tests.oci_server import (
    OCI_INDEX,
    USER,
    Registry,
    TokenServer,
    digest_of,
    htpasswd,
    log_in,
    registry,
    tar_of,
    token_server,
)
from tests.processes import needed
from tests.sources.raw_servers import forget_environment

pytestmark = pytest.mark.slow

CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"
CONFIG, WEIGHTS = b'{"peft_type": "LORA"}', os.urandom(300_000)
FILES = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}
BELOW = {f"run/{path}": data for path, data in FILES.items()}
README = {"README.md": b"# SQL"}
TAR, MODEL, KIT = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.cncf.model",
    "application/vnd.kitops.modelkit",
)
PATH, TITLE = "org.cncf.model.filepath", "org.opencontainers.image.title"
Layer = tuple[bytes, str, Mapping[str, str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=2, keep_free=0)


def ref_to(server: Registry, name: str) -> AdapterRef:
    return parse(f"oci://{server.place}/{name}", is_path=lambda _: False)


def read_all(source: OciSource, ref: AdapterRef) -> dict[str, bytes]:
    """All that is listed, read whole; a listed digest is true."""
    revision = source.resolve(ref)
    files = {file.path: b"".join(source.read(revision, file, 0, None)) for file in revision.files}
    assert {file.path: file.sha256 for file in revision.files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    return files


def files_at(server: Registry, name: str, settings: Settings) -> dict[str, bytes]:
    at = SourceRule(match="oci://*", endpoint_url=f"{server.scheme}://{server.place}")
    return read_all(OciSource(settings, at), ref_to(server, name))


def put(server: Registry, *layers: Layer, config: str = "application/vnd.oci.empty.v1+json", artifact: str = "") -> str:
    """An artifact with these layers; its name and tag."""
    name = server.name()
    made = [{**server.layer(name, data, kind), "annotations": dict(annotations)} for data, kind, annotations in layers]
    manifest = {"artifactType": artifact} if artifact else {}
    server.manifest(f"{name}:v1", {**manifest, "config": server.config(name, config), "layers": made})
    return f"{name}:v1"


def long_names(form: int) -> tuple[bytes, dict[str, bytes]]:
    files = {f"{'a' * 150}/{'ż' * 100}.txt": b"x", **FILES}
    return tar_of(files, form=form), files


LAYOUTS: Mapping[str, tuple[str, tuple[Layer, ...], dict[str, bytes]]] = {
    "ModelPack: a file, and tars of two kinds": (
        f"{MODEL}.config.v1+json",
        (
            (WEIGHTS, f"{MODEL}.weight.v1.raw", {PATH: "./adapter_model.safetensors"}),
            (tar_of({"adapter_config.json": CONFIG}), f"{MODEL}.weight.config.v1.tar", {PATH: "adapter_config.json"}),
            (tar_of(README, "gzip"), f"{MODEL}.doc.v1.tar+gzip", {PATH: "README.md"}),
            (tar_of({"./data/a.txt": b"a"}), f"{MODEL}.dataset.v1.tar", {PATH: "data"}),
        ),
        {**FILES, **README, "data/a.txt": b"a"},
    ),
    "KitOps: the folder of the only adapter is its root": (
        f"{KIT}.config.v1+json",
        ((tar_of(BELOW), f"{KIT}.modelpart.v1.tar", {}), (tar_of(README, "gzip"), f"{KIT}.docs.v1.tar+gzip", {})),
        FILES,
    ),
    "long names of GNU tar": (
        "x/y",
        ((long_names(tarfile.GNU_FORMAT)[0], TAR, {}),),
        long_names(tarfile.GNU_FORMAT)[1],
    ),
    "long names of pax": ("x/y", ((long_names(tarfile.PAX_FORMAT)[0], TAR, {}),), long_names(tarfile.PAX_FORMAT)[1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_are_files_or_tars_of_files(oci_registry: Registry, settings: Settings, layout: str) -> None:
    config, layers, files = LAYOUTS[layout]
    assert files_at(oci_registry, put(oci_registry, *layers, config=config), settings) == files


REFUSED: Mapping[str, tuple[type[LoraCliError], str, str, Layer]] = {
    "an image": (UsageError, "a container image", "application/vnd.oci.image.config.v1+json", (tar_of(FILES), TAR, {})),
    "Docker's": (UsageError, "a container image", "application/vnd.docker.container.image.v1+json", (b"", TAR, {})),
    "no files": (NotFound, "there are no files", "x/y", (b"x", "text/plain", {})),
    "zstd": (Refused, r"a tar\+zstd", "x/y", (b"", f"{KIT}.model.v1.tar+zstd", {})),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_artifact_with_files_is_refused(oci_registry: Registry, settings: Settings, what: str) -> None:
    kind, message, config, layer = REFUSED[what]
    with pytest.raises(kind, match=message):
        files_at(oci_registry, put(oci_registry, layer, config=config), settings)


@pytest.fixture
def oras(oci_registry: Registry, tmp_path: Path) -> Callable[..., None]:
    """Runs Debian's oras in a folder with ``FILES``."""
    needed("oras")
    folder = tmp_path / "pushed"
    (folder / "run").mkdir(parents=True)
    for path, data in {**FILES, **BELOW}.items():
        (folder / path).write_bytes(data)

    def run(*words: str) -> None:
        subprocess.run(["oras", *words], cwd=folder, check=True, capture_output=True)

    return run


def test_what_oras_pushes_is_read(oras: Callable[..., None], oci_registry: Registry, settings: Settings) -> None:
    name = f"{oci_registry.name()}:v1"
    place = f"{oci_registry.place}/{name}"
    for pushed in (tuple(FILES), ("run",)):
        oras("push", "--plain-http", place, *pushed)
        assert files_at(oci_registry, name, settings) == FILES
    oras("push", "--plain-http", place, "run", "adapter_config.json:application/json")
    assert files_at(oci_registry, name, settings) == {"adapter_config.json": CONFIG, **BELOW}
    assert files_at(oci_registry, f"{name}//run", settings) == FILES
    with pytest.raises(NotFound, match="folder gone"):
        files_at(oci_registry, f"{name}//gone", settings)
    old = ("--image-spec", "v1.0", "--config", "adapter_config.json:application/vnd.acme.lora+json")
    oras("push", "--plain-http", *old, place, *FILES)
    assert files_at(oci_registry, name, settings) == FILES


def test_an_index_is_its_only_artifact_or_the_one_for_this_machine(oci_registry: Registry, settings: Settings) -> None:
    name, machine = oci_registry.name(), {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1}
    adapter = {**entry, "digest": oci_registry.push(f"{name}:v1", FILES)}
    other = {**entry, "digest": oci_registry.push(f"{name}:v2", README)}
    ours = {**adapter, "platform": {"os": "linux", "architecture": machine}}
    theirs = {**other, "platform": {"os": "linux", "architecture": "riscv64"}}
    for tag, manifests in (("one", [adapter]), ("ours", [theirs, ours])):
        digest = oci_registry.manifest(f"{name}:{tag}", {"manifests": manifests}, OCI_INDEX)
        assert OciSource(settings).resolve(ref_to(oci_registry, f"{name}:{tag}")).id == digest
        assert files_at(oci_registry, f"{name}:{tag}", settings) == FILES
    for tag, manifests in (("two", [adapter, other]), ("none", [])):
        oci_registry.manifest(f"{name}:{tag}", {"manifests": manifests}, OCI_INDEX)
        with pytest.raises(UsageError, match=f"an index of {len(manifests)} manifests") as caught:
            files_at(oci_registry, f"{name}:{tag}", settings)
        assert f"oci://{oci_registry.place}/{name}@sha256:" in caught.value.hint
        assert all(str(one["digest"]) in caught.value.message for one in manifests)


def fetched(server: Registry, name: str, settings: Settings) -> Fetched:
    return bring(ref_to(server, name), OciSource(settings), Store(settings.cache_dir), settings)


def test_a_tag_that_is_cached_costs_one_request(docker_registry: Registry, settings: Settings) -> None:
    name = put(docker_registry, (tar_of(FILES), TAR, {}))
    with FaultyProxy(docker_registry.place) as proxy:
        server = Registry(proxy.place)
        first = fetched(server, name, settings)
        assert {path.name: path.read_bytes() for path in first.snapshot.directory.iterdir()} == FILES
        assert len([asked for asked in proxy.asked if "/blobs/" in asked.line]) == 1
        proxy.mend()
        again = fetched(server, name, settings)
        assert (again.snapshot, again.revision, again.cached) == (first.snapshot, first.revision, True)
        assert len(proxy.asked) == 1
        assert fetched(server, f"{name}@{first.revision}", settings).snapshot == first.snapshot
        assert fetched(server, name, replace(settings, offline=True)).snapshot == first.snapshot
        assert len(proxy.asked) == 1
        docker_registry.push(name, {**FILES, "adapter_config.json": b"{}"})
        assert fetched(server, name, settings).revision != first.revision


def test_a_layer_that_is_a_file_is_read_by_range(docker_registry: Registry, settings: Settings) -> None:
    name = docker_registry.name()
    docker_registry.push(f"{name}:v1", FILES)
    with FaultyProxy(docker_registry.place) as proxy:
        source = OciSource(settings)
        revision = source.resolve(ref_to(Registry(proxy.place), f"{name}:v1"))
        file = revision.file("adapter_model.safetensors")
        assert file is not None
        assert b"".join(source.read(revision, file, 8, 1000)) == WEIGHTS[8:1000]
        assert [asked.line.rpartition(" ")[2] for asked in proxy.asked] == ["", "bytes=8-999"]
        with pytest.raises(Corrupt):
            list(source.read(revision, replace(file, size=len(WEIGHTS) + 1), len(WEIGHTS), None))


def test_a_tar_that_is_not_kept_any_more_is_downloaded_again(oci_registry: Registry, settings: Settings) -> None:
    names = [put(oci_registry, (tar_of({**FILES, "a": b"%d" % number}), TAR, {})) for number in range(2)]
    source = OciSource(replace(settings, jobs=1))
    revisions = [source.resolve(ref_to(oci_registry, name)) for name in names]
    for _ in range(2):
        for number, revision in enumerate(revisions):
            files = {file.path: b"".join(source.read(revision, file, 0, None)) for file in revision.files}
            assert files == {**FILES, "a": b"%d" % number}


@pytest.mark.parametrize("reference", [":v2", "@sha256:" + "0" * 64])
def test_what_is_not_there_is_not_found(oci_registry: Registry, settings: Settings, reference: str) -> None:
    name = oci_registry.name()
    oci_registry.push(f"{name}:v1", FILES)
    with pytest.raises(NotFound, match="404"):
        files_at(oci_registry, name + reference, settings)


@pytest.fixture(scope="module")
def basic(docker_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The same registry, over TLS and for one user."""
    folder = tmp_path_factory.mktemp("basic")
    with registry(folder, htpasswd(folder), CERTIFICATE, store=docker_registry.store) as server:
        yield server


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenServer]:
    with token_server(CERTIFICATE) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(
    tokens: TokenServer, docker_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """The same registry, for those who have a token."""
    with registry(tmp_path_factory.mktemp("guarded"), tokens.auth(), store=docker_registry.store) as server:
        yield server


@pytest.fixture
def private(docker_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name that only a user may read, while the certificate of the registries is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    forget_environment()
    name = f"{docker_registry.name()}:v1"
    docker_registry.push(name, FILES)
    yield name
    forget_environment()


def log_in_to(server: Registry, **entry: str) -> None:
    log_in(Path(os.environ["DOCKER_CONFIG"]), server.place, **entry)


@pytest.mark.parametrize("which", ["basic", "guarded"])
def test_a_private_repository_wants_a_user(
    request: pytest.FixtureRequest, private: str, tokens: TokenServer, settings: Settings, which: str
) -> None:
    server: Registry = request.getfixturevalue(which)
    with pytest.raises(AccessDenied) as caught:
        files_at(server, private, settings)
    assert f"docker login {server.place}" in caught.value.hint
    log_in_to(server)
    assert files_at(server, private, settings) == FILES
    log_in_to(server, username="alice", password="wrong-password")
    with pytest.raises(AccessDenied) as caught:
        files_at(server, private, settings)
    assert "config.json" in caught.value.hint
    assert "wrong-password" not in f"{caught.value} {caught.value.hint}"
    if which == "guarded":
        log_in_to(server, identitytoken=tokens.refresh)
        tokens.asked.clear()
        assert files_at(server, private, settings) == FILES
        assert [(method, sent) for method, sent, _ in tokens.asked] == [("POST", "")]


def test_a_rule_names_a_mirror_and_the_variable_with_the_credentials(
    oci_registry: Registry, basic: Registry, private: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    oci_registry.push("proxy/acme/mirrored:v1", FILES)
    mirror = SourceRule(match="oci://ghcr.io/*", endpoint_url=f"http://{oci_registry.place}/proxy", anonymous=True)
    elsewhere = parse("oci://ghcr.io/acme/mirrored:v1", is_path=lambda _: False)
    assert read_all(OciSource(settings, mirror), elsewhere) == FILES
    monkeypatch.setenv("ACME_REGISTRY", ":".join(USER))
    rule = SourceRule(match="oci://*", endpoint_url=f"https://{basic.place}", token_env="ACME_REGISTRY")
    assert read_all(OciSource(settings, rule), ref_to(basic, private)) == FILES
    log_in_to(basic)
    anonymous = rule.model_copy(update={"token_env": None, "anonymous": True})
    with pytest.raises(AccessDenied):
        OciSource(settings, anonymous).resolve(ref_to(basic, private))


def test_threads_share_one_token_that_anybody_gets_for_what_is_public(
    docker_registry: Registry, guarded: Registry, tokens: TokenServer, settings: Settings
) -> None:
    docker_registry.push("acme/public:v1", FILES)
    tokens.asked.clear()
    source, ref = OciSource(settings), ref_to(guarded, "acme/public:v1")
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda _: read_all(source, ref), range(16))] == [FILES] * 16
    assert tokens.asked == [("GET", "", {"service": "test-registry", "scope": "repository:acme/public:pull"})]


def test_a_token_that_ends_is_renewed_in_the_midst_of_a_file(
    docker_registry: Registry, guarded: Registry, tokens: TokenServer, settings: Settings
) -> None:
    docker_registry.push("acme/public:v1", FILES)
    with FaultyProxy(guarded.place) as proxy:
        source = OciSource(settings)
        revision = source.resolve(ref_to(Registry(proxy.place), "acme/public:v1"))
        challenge = f'Bearer realm="{tokens.url}/token",service="test-registry",scope="repository:acme/public:pull"'
        proxy.fault("blobs.*bytes=100000-", status=401, headers={"WWW-Authenticate": challenge})
        proxy.fault("blobs", reset_at=100_000)
        tokens.asked.clear()
        assert b"".join(source.read(revision, revision.files[1], 0, None)) == WEIGHTS
        assert len(tokens.asked) == 1
        tokens.lifetime_s = -120
        with pytest.raises(AccessDenied):
            OciSource(settings).resolve(ref_to(guarded, "acme/public:v1"))
        tokens.lifetime_s = 300
        assert len(tokens.asked) == 2


def test_a_token_is_for_the_scope_that_the_registry_names(settings: Settings) -> None:
    asked_for: list[dict[str, list[str]]] = []

    def reply(asked: Asked) -> Reply:
        if asked.path.startswith("/token"):
            asked_for.append(parse_qs(urlsplit(asked.path).query))
            return 200, b'{"access_token": "good"}', {}
        if asked.headers["Authorization"] == "Bearer good":
            return 404, b"", {}
        realm = f'Bearer realm="http://{asked.headers["Host"]}/token",scope="repository:acme/other:pull"'
        return 401, b"", {"WWW-Authenticate": realm}

    with answering(reply) as url, pytest.raises(NotFound):
        files_at(Registry(url.removeprefix("http://")), f"acme/sql@{digest_of(b'')}", settings)
    assert asked_for == [{"scope": ["repository:acme/other:pull"]}]
