"""The client of a registry, over real ones: tokens, manifests, blobs by range."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lora_cli.errors import AccessDenied, Corrupt, NotFound
from lora_cli.sources.docker_config import find_credentials
from lora_cli.sources.http import Http, Piece
from lora_cli.sources.oci_registry import RegistryClient
from lora_cli.sources.retries import Retries
from tests.answering import Asked, Reply, answering
from tests.faulty_proxy import FaultyProxy
from tests.oci_server import (
    Registry,
    TokenServer,
    digest_of,
    htpasswd,
    log_in,
    registry,
    token_server,
)
from tests.sources.raw_servers import forget_environment

CERTIFICATE = Path(__file__).parent / "tls/localhost.pem"
DATA = os.urandom(300_000)
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": DATA}


def client_of(server: Registry, repository: str, *, path: str = "") -> RegistryClient:
    http = Http(f"{server.scheme}://{server.place}{path}", 5, Retries(2, lambda _: None))
    return RegistryClient(http, repository, partial(find_credentials, server.place, repository, os.environ))


def read(client: RegistryClient, digest: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(client.read_blob(digest, Piece(start, stop, len(DATA)), "it"))


def test_a_manifest_is_had_by_tag_and_by_digest(oci_registry: Registry) -> None:
    name = oci_registry.name()
    digest = oci_registry.push(f"{name}:v1", FILES)
    client = client_of(oci_registry, name)
    found = client.manifest("v1", "it")
    assert found.digest == digest
    assert client.manifest(digest, "it") == found
    assert not found.is_index
    assert [layer.annotations["org.opencontainers.image.title"] for layer in found.layers] == [*FILES]
    assert [layer.size for layer in found.layers] == [2, len(DATA)]


def test_a_blob_is_read_by_range(oci_registry: Registry) -> None:
    name = oci_registry.name()
    digest = oci_registry.blob(name, DATA)
    client = client_of(oci_registry, name)
    assert read(client, digest) == DATA
    assert read(client, digest, 1000, 2000) == DATA[1000:2000]
    assert read(client, digest, 299_990) == DATA[299_990:]


def test_the_path_of_a_mirror_begins_each_repository(oci_registry: Registry) -> None:
    oci_registry.push("proxy/acme/mirrored:v1", FILES)
    assert client_of(oci_registry, "acme/mirrored", path="/proxy").manifest("v1", "it").layers


@pytest.mark.parametrize("reference", ["v2", "sha256:" + "0" * 64])
def test_what_is_not_there_is_not_found(oci_registry: Registry, reference: str) -> None:
    name = oci_registry.name()
    oci_registry.push(f"{name}:v1", FILES)
    with pytest.raises(NotFound, match="404"):
        client_of(oci_registry, name).manifest(reference, "it")


def test_a_blob_of_another_size_is_corrupt(oci_registry: Registry) -> None:
    name = oci_registry.name()
    digest = oci_registry.blob(name, DATA[:-1])
    with pytest.raises(Corrupt):
        read(client_of(oci_registry, name), digest)
    with pytest.raises(Corrupt, match="ends earlier than its manifest says"):
        read(client_of(oci_registry, name), digest, len(DATA) - 1)


@pytest.fixture(scope="module")
def basic(docker_registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The same registry, over TLS and for one user."""
    folder = tmp_path_factory.mktemp("basic")
    with registry(folder, htpasswd(folder), CERTIFICATE, store=_store(docker_registry)) as server:
        yield server


@pytest.fixture(scope="module")
def tokens(docker_registry: Registry) -> Iterator[TokenServer]:
    with token_server(CERTIFICATE) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(
    tokens: TokenServer, docker_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """The same registry, for those who have a token."""
    with registry(tmp_path_factory.mktemp("guarded"), tokens.auth(), store=_store(docker_registry)) as server:
        yield server


def _store(server: Registry) -> Path:
    assert server.store is not None
    return server.store


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    forget_environment()
    yield
    forget_environment()


@pytest.mark.usefixtures("trusted")
def test_basic_credentials_come_from_dockers_file(docker_registry: Registry, basic: Registry) -> None:
    name = docker_registry.name()
    digest = docker_registry.push(f"{name}:v1", FILES)
    client = client_of(basic, name)
    with pytest.raises(AccessDenied) as caught:
        client.manifest("v1", "it")
    assert "docker login localhost:" in caught.value.hint
    log_in(Path(os.environ["DOCKER_CONFIG"]), basic.place)
    assert client.manifest("v1", "it").digest == digest
    log_in(Path(os.environ["DOCKER_CONFIG"]), basic.place, username="alice", password="wrong-password")
    with pytest.raises(AccessDenied) as caught:
        client_of(basic, name).manifest("v1", "it")
    assert "config.json" in caught.value.hint
    assert "wrong-password" not in f"{caught.value} {caught.value.hint}"


def test_anybody_gets_a_token_for_what_is_public(
    docker_registry: Registry, guarded: Registry, tokens: TokenServer
) -> None:
    docker_registry.push("acme/public:v1", FILES)
    tokens.asked.clear()
    client = client_of(guarded, "acme/public")
    found = client.manifest("v1", "it")
    assert read(client, found.layers[1].digest) == DATA
    assert tokens.asked == [("GET", "", {"service": "test-registry", "scope": "repository:acme/public:pull"})]


def test_a_private_repository_wants_a_user(docker_registry: Registry, guarded: Registry, tokens: TokenServer) -> None:
    name = docker_registry.name()
    digest = docker_registry.push(f"{name}:v1", FILES)
    with pytest.raises(AccessDenied) as caught:
        client_of(guarded, name).manifest("v1", "it")
    assert "docker login" in caught.value.hint
    log_in(Path(os.environ["DOCKER_CONFIG"]), guarded.place)
    assert client_of(guarded, name).manifest("v1", "it").digest == digest
    log_in(Path(os.environ["DOCKER_CONFIG"]), guarded.place, identitytoken=tokens.refresh)
    tokens.asked.clear()
    assert client_of(guarded, name).manifest("v1", "it").digest == digest
    assert [(method, sent) for method, sent, _ in tokens.asked] == [("POST", "")]
    log_in(Path(os.environ["DOCKER_CONFIG"]), guarded.place, username="alice", password="wrong-password")
    with pytest.raises(AccessDenied, match="403"):
        client_of(guarded, name).manifest("v1", "it")


@pytest.mark.parametrize(
    ("entry", "sent"),
    [
        ({}, ["repository:acme/sql:push", "repository:acme/other:pull"]),
        ({"identitytoken": "an-identity-token"}, ["repository:acme/sql:push repository:acme/other:pull"]),
    ],
)
def test_a_token_is_for_every_scope_that_the_registry_names(entry: dict[str, str], sent: list[str]) -> None:
    scopes: list[list[str]] = []

    def reply(asked: Asked) -> Reply:
        if asked.path.startswith("/token"):
            form = asked.body.decode() if asked.command == "POST" else urlsplit(asked.path).query
            scopes.append(parse_qs(form)["scope"])
            return 200, b'{"token": "good"}', {}
        if asked.headers["Authorization"] == "Bearer good":
            return 200, b"blob", {}
        realm = f'Bearer realm="http://{asked.headers["Host"]}/token"'
        return 401, b"", {"WWW-Authenticate": ",".join((realm, *(f'scope="{one}"' for one in " ".join(sent).split())))}

    with answering(reply) as url:
        server = Registry(url.removeprefix("http://"))
        log_in(Path(os.environ["DOCKER_CONFIG"]), server.place, **entry)
        client = client_of(server, "acme/sql")
        assert b"".join(client.read_blob(digest_of(b"blob"), Piece(0, 4, 4), "it")) == b"blob"
    assert scopes == [sent]


def test_a_token_that_ends_is_renewed_in_the_midst_of_a_file(
    docker_registry: Registry, guarded: Registry, tokens: TokenServer
) -> None:
    docker_registry.push("acme/public:v1", FILES)
    digest = digest_of(DATA)
    with FaultyProxy(guarded.place) as proxy:
        challenge = f'Bearer realm="{tokens.url}/token",service="test-registry",scope="repository:acme/public:pull"'
        proxy.fault("blobs.*bytes=100000-", status=401, headers={"WWW-Authenticate": challenge})
        proxy.fault("blobs", status=401, headers={"WWW-Authenticate": challenge})
        proxy.fault("blobs", reset_at=100_000)
        tokens.asked.clear()
        assert read(client_of(Registry(proxy.place), "acme/public"), digest) == DATA
        assert len(tokens.asked) == 2
        assert [asked.start for asked in proxy.asked] == [0, 0, 100_000, 100_000]


def test_a_registry_that_takes_no_token_is_asked_twice(guarded: Registry, tokens: TokenServer) -> None:
    tokens.lifetime_s = -120
    tokens.asked.clear()
    with pytest.raises(AccessDenied):
        client_of(guarded, "acme/public").manifest("v1", "it")
    tokens.lifetime_s = 300
    assert len(tokens.asked) == 1


def test_a_client_of_many_threads_asks_for_one_token(
    docker_registry: Registry, guarded: Registry, tokens: TokenServer
) -> None:
    docker_registry.push("acme/public:v1", FILES)
    client = client_of(guarded, "acme/public")
    tokens.asked.clear()
    with ThreadPoolExecutor(8) as pool:
        assert len({found.digest for found in pool.map(lambda _: client.manifest("v1", "it"), range(16))}) == 1
    assert len(tokens.asked) == 1
