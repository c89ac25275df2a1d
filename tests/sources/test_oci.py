"""Adapters in a registry: the layouts, what ORAS pushes, indexes, tokens, credentials, and what is kept of a tar."""

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, LoraCliError, NotFound, Refused, UsageError
from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources import Source
from lora_cli.sources.oci import Credentials, find_credentials
from lora_cli.sources.registry import open_source
from tests.faulty_proxy import FaultyProxy
from tests.oci_server import OCI_INDEX, USER, Registry, TokenServer, htpasswd, log_in, registry, tar_of, token_server
from tests.processes import needed
from tests.sources.raw_servers import forget_environment

CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"
CONFIG, WEIGHTS = b'{"peft_type": "LORA"}', os.urandom(300_000)
FILES = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}
BELOW = {f"run/{path}": data for path, data in FILES.items()}
README, LONG = {"README.md": b"# SQL"}, {f"{'a' * 150}/{'ż' * 100}.txt": b"x"}
MODEL, KIT = "application/vnd.cncf.model", "application/vnd.kitops.modelkit"
TAR, PATH = "application/vnd.oci.image.layer.v1.tar", "org.cncf.model.filepath"
Layer = tuple[bytes, str, Mapping[str, str]]


def ref_to(server: Registry, name: str) -> AdapterRef:
    return AdapterRef("oci", f"{server.place}/{name}")


def read_all(source: Source, ref: AdapterRef) -> dict[str, bytes]:
    """All that is listed, read whole; a listed digest is true."""
    revision = source.resolve(ref)
    files = {file.path: b"".join(source.read(revision, file, 0, None)) for file in revision.files}
    assert [file.sha256 for file in revision.files] == [hashlib.sha256(data).hexdigest() for data in files.values()]
    return files


def files_at(server: Registry, name: str, settings: Settings, folder: str = "") -> dict[str, bytes]:
    rule = SourceRule(match="oci://*", endpoint_url=f"{server.scheme}://{server.place}")
    return read_all(open_source("oci", settings, rule), replace(ref_to(server, name), subfolder=folder))


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
    "plain tars, with long names; the later of two files counts": (
        ((tar_of({**FILES, "README.md": b"old"}), TAR, {}), (tar_of({**README, **LONG}, "gzip"), f"{TAR}+gzip", {})),
        {**FILES, **README, **LONG},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_are_files_or_tars_of_files(oci_registry: Registry, settings: Settings, layout: str) -> None:
    layers, files = LAYOUTS[layout]
    assert files_at(oci_registry, put(oci_registry, *layers), settings) == files


DAMAGED = bytearray(tar_of({"a": b"", **FILES}))
DAMAGED[512] ^= 1  # in the second header, which its checksum then does not fit

REFUSED: Mapping[str, tuple[type[LoraCliError], str, str, Layer]] = {
    "an image": (UsageError, "a container image", "application/vnd.oci.image.config.v1+json", (tar_of(FILES), TAR, {})),
    "no files": (NotFound, "there are no files", "x/y", (b"x", "text/plain", {})),
    "a damaged tar": (Refused, "or damaged", "x/y", (bytes(DAMAGED), TAR, {})),
    "a path that leaves": (Refused, "would leave the folder", "x/y", (CONFIG, "x/y", {PATH: "../adapter_config.json"})),
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
    assert files_at(oci_registry, name, settings, "run") == FILES
    with pytest.raises(NotFound, match="no files in gone"):
        files_at(oci_registry, name, settings, "gone")


def test_an_index_is_its_only_artifact_or_the_one_for_this_machine(oci_registry: Registry, settings: Settings) -> None:
    name, machine = oci_registry.name(), {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    digests = [oci_registry.push(f"{name}:v1", files) for files in (FILES, README)]
    adapter, other = ({"size": 1, "digest": digest} for digest in digests)
    ours = {**adapter, "platform": {"os": "linux", "architecture": machine}}
    theirs = {**other, "platform": {"os": "linux", "architecture": "riscv64"}}
    for manifests in ([adapter], [theirs, ours]):
        digest = oci_registry.manifest(f"{name}:index", {"manifests": manifests}, OCI_INDEX)
        assert open_source("oci", settings).resolve(ref_to(oci_registry, f"{name}:index")).id == digest
        assert files_at(oci_registry, f"{name}:index", settings) == FILES
    for manifests in ([adapter, other] * 3, []):
        oci_registry.manifest(f"{name}:index", {"manifests": manifests}, OCI_INDEX)
        with pytest.raises(UsageError, match=f"an index of {len(manifests)} manifests") as caught:
            files_at(oci_registry, f"{name}:index", settings)
        assert f"oci://{oci_registry.place}/{name}@sha256:" in caught.value.hint
        assert re.findall(r"sha256:\w+", caught.value.message) == [one["digest"] for one in manifests[:5]]


Servers = tuple[Registry, Registry, TokenServer]


@pytest.fixture(scope="module")
def servers(docker_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The same registry over TLS for one user, and for those who have a token; and the service that gives tokens."""
    one, two, store = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two"), docker_registry.store
    docker_registry.push("acme/public:v1", FILES)
    with (
        token_server(CERTIFICATE) as tokens,
        registry(one, htpasswd(one), CERTIFICATE, store) as basic,
        registry(two, tokens.auth(), store=store) as guarded,
    ):
        yield basic, guarded, tokens


@pytest.fixture
def private(oci_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name that only a user may read, while the certificate of the registries is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    forget_environment()
    oci_registry.push(name := f"{oci_registry.name()}:v1", FILES)
    yield name
    forget_environment()


def test_a_private_repository_wants_a_user(servers: Servers, private: str, settings: Settings) -> None:
    for server in servers[:2]:
        for wrong in ({"auth": ""}, {"auth": "YWxpY2U6d3JvbmctcGFzc3dvcmQ="}):
            log_in(server.place, **wrong)
            with pytest.raises(AccessDenied) as caught:
                files_at(server, private, settings)
            assert f"docker login {server.place}" in caught.value.hint
        log_in(server.place)
        assert files_at(server, private, settings) == FILES
    log_in(server.place, identitytoken=servers[2].refresh)
    servers[2].asked.clear()
    assert files_at(server, private, settings) == FILES
    assert [(method, sent) for method, sent, _ in servers[2].asked] == [("POST", "")]


def test_a_rule_names_a_mirror_and_the_variable_with_the_credentials(
    oci_registry: Registry, servers: Servers, private: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(name: str, **rule: object) -> dict[str, bytes]:
        made = SourceRule.model_validate({"match": "oci://*", **rule})
        return read_all(open_source("oci", settings, made), AdapterRef("oci", f"ghcr.io/{name}"))

    oci_registry.push("proxy/acme/mirrored:v1", FILES)
    mirror, server = f"http://{oci_registry.place}/proxy", f"https://{servers[0].place}"
    assert files("acme/mirrored:v1", endpoint_url=mirror, anonymous=True) == FILES
    monkeypatch.setenv("ACME_REGISTRY", ":".join(USER))
    assert files(private, endpoint_url=server, token_env="ACME_REGISTRY") == FILES
    log_in(servers[0].place)
    with pytest.raises(AccessDenied):
        files(private, endpoint_url=server, anonymous=True)


def test_a_token_that_ends_is_renewed_in_the_midst_of_a_file(servers: Servers, settings: Settings) -> None:
    _, guarded, tokens = servers
    with FaultyProxy(guarded.place) as proxy:
        source = open_source("oci", settings)
        revision = source.resolve(ref_to(Registry(proxy.place), "acme/public:v1"))
        challenge = f'Bearer realm="{tokens.url}/token",service="test-registry",scope="repository:acme/public:pull"'
        proxy.fault("blobs.*bytes=100000-", status=401, headers={"WWW-Authenticate": challenge})
        proxy.fault("blobs", reset_at=100_000)
        tokens.asked.clear()
        assert b"".join(source.read(revision, revision.files[1], 0, None)) == WEIGHTS
        assert len(tokens.asked) == 1


ALICE, BOB = (base64.b64encode(login).decode() for login in (b"alice:wonder:land", b"bob:builder-pass"))


def written(file: Path, config: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config if isinstance(config, str) else json.dumps(config))


def found(home: Path, server: str = "ghcr.io", **environ: str) -> Credentials:
    return find_credentials(server, "acme/sql", {"HOME": str(home), **environ})


ENTRIES = (
    ("ghcr.io", {"ghcr.io": ALICE, "ghcr.io.evil": BOB, "ghcr.io:443": BOB, "ghcr.io/ac": BOB}),
    ("ghcr.io", {"ghcr.io/acme/sql": ALICE, "ghcr.io/acme": BOB, "ghcr.io/acme/sql-2": BOB}),
    ("registry-1.docker.io", {"https://index.docker.io/v1/": ALICE, "ghcr.io": BOB}),
    ("ghcr.io", {"https://ghcr.io": ALICE}),
    ("quay.io", {"ghcr.io": BOB}),
)


@pytest.mark.parametrize(("server", "entries"), ENTRIES)
def test_the_longest_entry_for_a_repository_counts(tmp_path: Path, server: str, entries: dict[str, str]) -> None:
    written(tmp_path / ".docker/config.json", {"auths": {key: {"auth": auth} for key, auth in entries.items()}})
    assert found(tmp_path, server) == Credentials(ALICE if ALICE in entries.values() else "")
    assert ALICE not in repr(found(tmp_path, server))


def test_files_are_looked_at_in_their_order(tmp_path: Path) -> None:
    run, docker, named = str(tmp_path / "run"), str(tmp_path / "docker"), str(tmp_path / "auth.json")
    order: tuple[tuple[str, dict[str, str]], ...] = (
        (".config/containers/auth.json", {}),
        ("run/containers/auth.json", {"XDG_RUNTIME_DIR": run}),
        ("docker/config.json", {"DOCKER_CONFIG": docker, "XDG_RUNTIME_DIR": run}),
        ("auth.json", {"REGISTRY_AUTH_FILE": named, "DOCKER_CONFIG": docker}),
    )
    written(tmp_path / ".docker/config.json", {"auths": {"quay.io": {"auth": BOB}}})
    for file, environ in order:
        written(tmp_path / file, {"auths": {"ghcr.io": {"auth": file}}})
        assert found(tmp_path, **environ).basic == file


HUB, ANSWER = "https://index.docker.io/v1/", '{"Username": "SERVER", "Secret": "secret"}'
HELPERS: tuple[tuple[str, dict[str, object], str, str | Credentials], ...] = (
    ("ghcr.io", {"credsStore": "absent", "credHelpers": {"ghcr.io": "test"}}, ANSWER, "get-ghcr.io:secret"),
    ("registry-1.docker.io", {"credsStore": "test"}, ANSWER, f"get-{HUB}:secret"),
    ("ghcr.io", {"credsStore": "test"}, ANSWER.replace("SERVER", "<token>"), Credentials(identity_token="secret")),
    ("ghcr.io", {"credsStore": "absent"}, ANSWER, Credentials(ALICE)),
    ("ghcr.io", {"credsStore": "test"}, "", Credentials(ALICE)),
)


@pytest.mark.parametrize(("server", "config", "answer", "expected"), HELPERS)
def test_a_helper_is_asked_for_the_server_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    server: str, config: dict[str, object], answer: str, expected: str | Credentials,
) -> None:  # fmt: skip
    program = tmp_path / "bin/docker-credential-test"
    written(program, f'#!/bin/sh\nread server\nsed "s|SERVER|$1-$server|" {tmp_path}/answer | grep . || exit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    written(tmp_path / "answer", answer)
    written(tmp_path / ".docker/config.json", {**config, "auths": {"ghcr.io": {"auth": ALICE}}})
    one = found(tmp_path, server)
    assert expected in (one, base64.b64decode(one.basic).decode())
