"""Adapters in a registry: the layouts, what ORAS pushes, indexes, tokens, credentials, and what is kept of a tar."""

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef, parse
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, LoraCliError, NotFound, Refused, UsageError
from lora_cli.fetching.pipeline import Fetched
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.bringing import bring
from tests.faulty_proxy import FaultyProxy
from tests.oci_server import (
    BASIC,
    OCI_INDEX,
    OCI_MANIFEST,
    TITLE,
    USER,
    Registry,
    TokenServer,
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
README, LONG = {"README.md": b"# SQL"}, {f"{'a' * 150}/{'ż' * 100}.txt": b"x"}
TAR, MODEL, KIT = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.cncf.model",
    "application/vnd.kitops.modelkit",
)
PATH, UNPACK = "org.cncf.model.filepath", "io.deis.oras.content.unpack"
Layer = tuple[bytes, str, Mapping[str, str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=2, keep_free=0)


def ref_to(server: Registry, name: str) -> AdapterRef:
    return parse(f"oci://{server.place}/{name}", is_path=lambda _: False)


def read_all(source: Source, ref: AdapterRef) -> dict[str, bytes]:
    """All that is listed, read whole; a listed digest is true."""
    revision = source.resolve(ref)
    files = {file.path: b"".join(source.read(revision, file, 0, None)) for file in revision.files}
    assert {file.path: file.sha256 for file in revision.files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    return files


def files_at(server: Registry, name: str, settings: Settings) -> dict[str, bytes]:
    rule = SourceRule(match="oci://*", endpoint_url=f"{server.scheme}://{server.place}")
    return read_all(open_source("oci", settings, rule), ref_to(server, name))


def put(server: Registry, *layers: Layer, config: str = "x/y") -> str:
    """An artifact with these layers; its name and tag."""
    name = server.name()
    made = [{**server.layer(name, data, kind), "annotations": dict(told)} for data, kind, told in layers]
    server.manifest(f"{name}:v1", {"config": server.config(name, config), "layers": made})
    return f"{name}:v1"


LAYOUTS: Mapping[str, tuple[tuple[Layer, ...], Mapping[str, bytes]]] = {
    "ModelPack: a file, and tars of two kinds": (
        (
            (WEIGHTS, f"{MODEL}.weight.v1.raw", {PATH: "./adapter_model.safetensors"}),
            (tar_of({"adapter_config.json": CONFIG}), f"{MODEL}.weight.config.v1.tar", {PATH: "adapter_config.json"}),
            (tar_of(README, "gzip"), f"{MODEL}.doc.v1.tar+gzip", {PATH: "README.md"}),
            (tar_of({"./data/a.txt": b"a"}), f"{MODEL}.dataset.v1.tar", {PATH: "data"}),
        ),
        {**FILES, **README, "data/a.txt": b"a"},
    ),
    "KitOps: the folder of the only adapter is its root": (
        ((tar_of(BELOW), f"{KIT}.modelpart.v1.tar", {}), (tar_of(README, "gzip"), f"{KIT}.docs.v1.tar+gzip", {})),
        FILES,
    ),
    "ORAS: what has a title is a file, a folder is a tar": (
        ((tar_of(README), TAR, {TITLE: "a.tar"}), (tar_of(FILES, "gzip"), f"{TAR}+gzip", {TITLE: "x", UNPACK: "true"})),
        {**FILES, "a.tar": tar_of(README)},
    ),
    "long names of GNU tar, and of pax": (
        ((tar_of(LONG, form=tarfile.GNU_FORMAT), TAR, {}), (tar_of(FILES, form=tarfile.PAX_FORMAT), TAR, {})),
        {**FILES, **LONG},
    ),
    "of two files with one path the later one counts": (
        ((tar_of({**FILES, "README.md": b"old"}), TAR, {}), (tar_of(README, "gzip"), f"{TAR}+gzip", {})),
        {**FILES, **README},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_are_files_or_tars_of_files(oci_registry: Registry, settings: Settings, layout: str) -> None:
    layers, files = LAYOUTS[layout]
    assert files_at(oci_registry, put(oci_registry, *layers), settings) == files


REFUSED: Mapping[str, tuple[type[LoraCliError], str, str, Layer]] = {
    "an image": (UsageError, "a container image", "application/vnd.oci.image.config.v1+json", (tar_of(FILES), TAR, {})),
    "Docker's": (UsageError, "a container image", "application/vnd.docker.container.image.v1+json", (b"", TAR, {})),
    "no files": (NotFound, "there are no files", "x/y", (b"x", "text/plain", {})),
    "zstd": (Refused, r"\.tar\+zstd", "x/y", (b"(\xb5/\xfd", f"{KIT}.model.v1.tar+zstd", {})),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_artifact_with_files_is_refused(oci_registry: Registry, settings: Settings, what: str) -> None:
    kind, message, config, layer = REFUSED[what]
    with pytest.raises(kind, match=message):
        files_at(oci_registry, put(oci_registry, layer, config=config), settings)


def test_what_oras_pushes_is_read(oci_registry: Registry, settings: Settings, tmp_path: Path) -> None:
    oras, name = needed("oras"), f"{oci_registry.name()}:v1"
    (tmp_path / "run").mkdir()
    for path, data in {**FILES, **BELOW}.items():
        (tmp_path / path).write_bytes(data)

    def pushed(*words: str) -> dict[str, bytes]:
        command = [oras, "push", "--plain-http", f"{oci_registry.place}/{name}", *words]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        return files_at(oci_registry, name, settings)

    old = ("--image-spec", "v1.0", "--config", "adapter_config.json:application/vnd.acme.lora+json")
    assert [pushed(*FILES), pushed("run"), pushed(*FILES, *old)] == [FILES] * 3
    assert pushed("run", "adapter_config.json:application/json") == {"adapter_config.json": CONFIG, **BELOW}
    assert files_at(oci_registry, f"{name}//run", settings) == FILES
    with pytest.raises(NotFound, match="no files in gone"):
        files_at(oci_registry, f"{name}//gone", settings)


def test_an_index_is_its_only_artifact_or_the_one_for_this_machine(oci_registry: Registry, settings: Settings) -> None:
    name, machine = oci_registry.name(), {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    adapter, other = (
        {"mediaType": OCI_MANIFEST, "size": 1, "digest": oci_registry.push(f"{name}:v{number}", files)}
        for number, files in enumerate((FILES, README))
    )
    ours = {**adapter, "platform": {"os": "linux", "architecture": machine}}
    theirs = {**other, "platform": {"os": "linux", "architecture": "riscv64"}}
    for manifests in ([adapter], [theirs, ours]):
        digest = oci_registry.manifest(f"{name}:index", {"manifests": manifests}, OCI_INDEX)
        assert open_source("oci", settings).resolve(ref_to(oci_registry, f"{name}:index")).id == digest
        assert files_at(oci_registry, f"{name}:index", settings) == FILES
    for manifests in ([adapter, other], []):
        oci_registry.manifest(f"{name}:index", {"manifests": manifests}, OCI_INDEX)
        with pytest.raises(UsageError, match=f"an index of {len(manifests)} manifests") as caught:
            files_at(oci_registry, f"{name}:index", settings)
        assert f"oci://{oci_registry.place}/{name}@sha256:" in caught.value.hint
        assert all(str(one["digest"]) in caught.value.message for one in manifests)


def test_a_tag_that_is_cached_costs_one_request(oci_registry: Registry, settings: Settings) -> None:
    def fetched(name: str, settings: Settings = settings) -> Fetched:
        ref = ref_to(Registry(proxy.place), name)
        return bring(ref, open_source("oci", settings), Store(settings.cache_dir), settings)

    name = put(oci_registry, (tar_of(FILES), TAR, {}))
    with FaultyProxy(oci_registry.place) as proxy:
        first = fetched(name)
        assert {path.name: path.read_bytes() for path in first.snapshot.directory.iterdir()} == FILES
        assert len([asked for asked in proxy.asked if "/blobs/" in asked.line]) == 1
        proxy.mend()
        again = fetched(name)
        assert (again.snapshot, again.revision, again.cached) == (first.snapshot, first.revision, True)
        assert fetched(f"{name}@{first.revision}").snapshot == first.snapshot
        assert fetched(name, replace(settings, offline=True)).snapshot == first.snapshot
        assert len(proxy.asked) == 1
        oci_registry.push(name, {**FILES, "adapter_config.json": b"{}"})
        assert fetched(name).revision != first.revision


def test_a_tar_that_is_not_kept_any_more_is_downloaded_again(oci_registry: Registry, settings: Settings) -> None:
    source, made = open_source("oci", replace(settings, jobs=1)), [{**FILES, "a": b"%d" % number} for number in (1, 2)]
    revisions = [source.resolve(ref_to(oci_registry, put(oci_registry, (tar_of(one), TAR, {})))) for one in made]
    for revision, files in [*zip(revisions, made, strict=True)] * 2:
        assert {file.path: b"".join(source.read(revision, file, 0, None)) for file in revision.files} == files


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
    docker_registry.push("acme/public:v1", FILES)
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


@pytest.mark.parametrize("which", ["basic", "guarded"])
def test_a_private_repository_wants_a_user(
    request: pytest.FixtureRequest, private: str, tokens: TokenServer, settings: Settings, which: str
) -> None:
    server: Registry = request.getfixturevalue(which)
    for wrong in ({}, {server.place: {"auth": "YWxpY2U6d3JvbmctcGFzc3dvcmQ="}}):
        log_in(wrong)
        with pytest.raises(AccessDenied) as caught:
            files_at(server, private, settings)
        assert f"docker login {server.place}" in caught.value.hint
        assert "YWxpY2U6" not in f"{caught.value}"
    log_in({server.place: {"auth": BASIC}})
    assert files_at(server, private, settings) == FILES
    if which == "guarded":
        log_in({server.place: {"auth": BASIC, "identitytoken": tokens.refresh}})
        tokens.asked.clear()
        assert files_at(server, private, settings) == FILES
        assert [(method, sent) for method, sent, _ in tokens.asked] == [("POST", "")]


def test_a_rule_names_a_mirror_and_the_variable_with_the_credentials(
    oci_registry: Registry, basic: Registry, private: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(ref: str, **rule: object) -> dict[str, bytes]:
        made = SourceRule.model_validate({"match": "oci://*", **rule})
        return read_all(open_source("oci", settings, made), AdapterRef("oci", ref))

    oci_registry.push("proxy/acme/mirrored:v1", FILES)
    mirror = f"http://{oci_registry.place}/proxy"
    assert files("ghcr.io/acme/mirrored:v1", endpoint_url=mirror, anonymous=True) == FILES
    monkeypatch.setenv("ACME_REGISTRY", ":".join(USER))
    server = f"https://{basic.place}"
    assert files(f"ghcr.io/{private}", endpoint_url=server, token_env="ACME_REGISTRY") == FILES
    log_in({basic.place: {"auth": BASIC}})
    with pytest.raises(AccessDenied):
        files(f"ghcr.io/{private}", endpoint_url=server, anonymous=True)


def test_threads_share_one_token_that_anybody_gets_for_what_is_public(
    guarded: Registry, tokens: TokenServer, settings: Settings
) -> None:
    tokens.asked.clear()
    source, ref = open_source("oci", settings), ref_to(guarded, "acme/public:v1")
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda _: read_all(source, ref), range(16))] == [FILES] * 16
    assert tokens.asked == [("GET", "", {"service": "test-registry", "scope": "repository:acme/public:pull"})]


def test_a_token_that_ends_is_renewed_in_the_midst_of_a_file(
    guarded: Registry, tokens: TokenServer, settings: Settings
) -> None:
    with FaultyProxy(guarded.place) as proxy:
        source = open_source("oci", settings)
        revision = source.resolve(ref_to(Registry(proxy.place), "acme/public:v1"))
        challenge = f'Bearer realm="{tokens.url}/token",service="test-registry",scope="repository:acme/public:pull"'
        proxy.fault("blobs.*bytes=100000-", status=401, headers={"WWW-Authenticate": challenge})
        proxy.fault("blobs", reset_at=100_000)
        tokens.asked.clear()
        assert b"".join(source.read(revision, revision.files[1], 0, None)) == WEIGHTS
        assert len(tokens.asked) == 1
