"""Azure over Azurite; what it cannot say, a server of a few lines says."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import (
    AccessDenied,
    Corrupt,
    LoraCliError,
    MachineError,
    MissingExtra,
    NotFound,
    Refused,
    Unreachable,
    UsageError,
)
from lora_cli.redaction import redact
from lora_cli.settings import Settings
from lora_cli.sources.credentials import azure_endpoint, find_azure_account
from lora_cli.sources.registry import open_source
from lora_cli.store import Store
from tests.answering import Reply, answering
from tests.bringing import fetch
from tests.faulty_proxy import FaultyProxy
from tests.making import write_adapter, write_base_config
from tests.object_servers import AZURITE_KEY, AzureServer
from tests.planted import Machine

pytestmark = pytest.mark.slow

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0)


@pytest.fixture
def server(azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> AzureServer:
    for name, value in azure_server.environ.items():
        monkeypatch.setenv(name, value)
    return azure_server


@pytest.fixture
def container(server: AzureServer, tmp_path: Path) -> str:
    """A container with an adapter in ``sql``."""
    container = server.container()
    put(server, container, write_adapter(tmp_path / "adapter", config={"layers_to_transform": [0]}))
    return container


def put(server: AzureServer, container: str, folder: Path) -> None:
    server.put(container, {f"sql/{path.name}": path.read_bytes() for path in folder.iterdir()})


def at(container: str, key: str = "sql") -> AdapterRef:
    return AdapterRef("az", f"{container}/{key}")


def error_of(call: Callable[[], object]) -> LoraCliError:
    with pytest.raises(LoraCliError) as caught:
        call()
    return caught.value


def test_an_adapter_is_fetched_locked_and_fetched_as_locked(
    server: AzureServer, container: str, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    files = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}
    server.put(container, {f"my żółw #1/{name}": data for name, data in files.items()})
    source = f"abfss://{container}@{server.account}.dfs.core.windows.net/my żółw #1"
    (tmp_path / "set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n  - {{name: sql, source: '{source}'}}\n"
    )
    assert machine.run("fetch", "-f", "set.yaml", **server.environ) == 0
    snapshot = Path(machine.said[-2].strip())
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == files
    assert machine.run("fetch", "-f", "set.yaml", "--locked", "--cache-dir", "another", **server.environ) == 0
    base = str(write_base_config(tmp_path / "base"))
    assert machine.run("validate", source, "--base", base, "--cache-dir", "none", **server.environ) == 0
    assert machine.run("inspect", source, "--cache-dir", "none", **server.environ) == 0
    server.put(container, {f"my żółw #1/{WEIGHTS}": files[WEIGHTS][::-1]})
    assert machine.run("fetch", "-f", "set.yaml", "--locked", "--cache-dir", "third", **server.environ) in {1, 5}
    assert machine.leaks(AZURITE_KEY) == []


def test_a_digest_in_the_metadata_is_compared(
    server: AzureServer, container: str, settings: Settings, tmp_path: Path
) -> None:
    weights = (tmp_path / "adapter" / WEIGHTS).read_bytes()
    server.put(container, {f"sql/{WEIGHTS}": weights}, {"sha256": "0" * 64})
    store = Store(settings.cache_dir)
    assert isinstance(error_of(lambda: fetch(at(container), open_source("az", settings), store, settings)), Corrupt)
    server.put(container, {f"sql/{WEIGHTS}": weights}, {"sha256": hashlib.sha256(weights).hexdigest()})
    snapshot = fetch(at(container), open_source("az", settings), store, settings)
    assert (snapshot.directory / WEIGHTS).read_bytes() == weights


def test_what_is_not_there_is_named(server: AzureServer, container: str, settings: Settings) -> None:
    source = open_source("az", settings)
    error = error_of(lambda: source.resolve(at("no-such-container")))
    assert isinstance(error, NotFound)
    assert "no container no-such-container" in error.message
    assert "AZURE_STORAGE_ENDPOINT" in error.hint
    error = error_of(lambda: source.resolve(at(container, "sq")))
    assert isinstance(error, NotFound)
    assert f"nothing below sq/ in the container {container}" in error.message
    assert isinstance(error_of(lambda: source.resolve(at(container, f"sql/{CONFIG}"))), UsageError)
    assert "is empty" in error_of(lambda: source.resolve(AdapterRef("az", server.container()))).message


@pytest.mark.parametrize(
    "wrong",
    [
        {"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmcga2V5IG9mIEFsaWNl" * 3},
        {"AZURE_STORAGE_ACCOUNT_KEY": "", "AZURE_STORAGE_SAS_TOKEN": "sv=2021-08-06&sig=wrongSignatureOfAlice"},
        {"AZURE_SKIP_SIGNATURE": "true"},
    ],
    ids=["key", "signature", "nobody"],
)
def test_who_is_not_let_in_is_told_so_and_no_secret_is_repeated(
    container: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str]
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    error = error_of(lambda: open_source("az", settings).resolve(at(container)))
    assert isinstance(error, AccessDenied)
    assert next(reversed(wrong)) in error.message + error.hint
    assert not any(value and value in error.message + error.hint for value in wrong.values() if value != "true")


def test_a_key_that_is_none_is_an_error_of_whoever_set_it(
    container: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "this is no base64")
    error = error_of(lambda: open_source("az", settings).resolve(at(container)))
    assert isinstance(error, AccessDenied)
    assert "AZURE_STORAGE_ACCOUNT_KEY cannot be used" in error.message
    assert "no base64" not in error.message + error.hint


def test_a_shared_access_signature_is_enough(
    server: AzureServer, container: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    until = datetime.now(UTC) + timedelta(hours=1)
    may = ContainerSasPermissions(read=True, list=True)
    token = generate_container_sas(server.account, container, AZURITE_KEY, permission=may, expiry=until)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"?{token}")
    snapshot = fetch(at(container), open_source("az", settings), Store(settings.cache_dir), settings)
    assert (snapshot.directory / WEIGHTS).is_file()


def test_secrets_of_the_environment_are_for_its_own_account() -> None:
    environ = {
        "AZURE_STORAGE_ACCOUNT": "acme",
        "AZURE_STORAGE_KEY": AZURITE_KEY,
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9/acme",
    }
    for location in ("loras/sql", "loras@acme.dfs.core.windows.net/sql"):
        account = find_azure_account(location, environ)
        assert (account.found_in, account.endpoint) == ("AZURE_STORAGE_KEY", "http://127.0.0.1:9/acme")
    account = find_azure_account("loras@other.dfs.core.windows.net/sql", environ)
    assert account.found_in == "Azure's default credentials"
    assert account.endpoint == "https://other.blob.core.windows.net"
    assert azure_endpoint("loras/sql", {}) == ""
    error = error_of(lambda: find_azure_account("loras/sql", {}))
    assert isinstance(error, UsageError)
    assert "AZURE_STORAGE_ACCOUNT_NAME" in error.hint
    for wrong in ({"AZURE_STORAGE_ACCOUNT": "https://acme"}, {**environ, "AZURE_STORAGE_ENDPOINT": "acme"}):
        assert isinstance(error_of(lambda wrong=wrong: azure_endpoint("loras/sql", wrong)), UsageError)  # type: ignore[misc]


def test_without_a_key_the_extra_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    monkeypatch.delitem(sys.modules, "obstore.auth.azure", raising=False)
    error = error_of(lambda: open_source("az", settings).resolve(at("loras")))
    assert isinstance(error, MissingExtra)
    assert error.exit_code == 2
    assert "lora-cli[azure]" in error.hint


def test_an_identity_that_gets_no_token_is_told_so(
    server: AzureServer, container: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    # Of the chain nothing but the environment's own identity, and that is not there.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    error = error_of(lambda: open_source("az", settings).resolve(at(container)))
    assert isinstance(error, AccessDenied)
    assert "cannot be used" in error.message
    assert "az login" in error.hint


def test_the_identity_of_a_machine_gives_the_token(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.path.startswith("/identity"):
            token = {
                "access_token": "tokenOfTheMachine",
                "expires_on": "4102444800",
                "resource": "r",
                "token_type": "B",
            }
            return 200, json.dumps(token).encode(), {"Content-Type": "application/json"}
        seen.append(request.headers.get("Authorization", ""))
        return 200, listing(1, ""), {}

    with answering(reply) as endpoint:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{endpoint}/identity")
        monkeypatch.setenv("IDENTITY_HEADER", "x")
        assert [file.path for file in open_source("az", settings).resolve(at("abc")).files] == ["0"]
    assert set(seen) == {"Bearer tokenOfTheMachine"}
    assert "tokenOfTheMachine" not in redact("the server says tokenOfTheMachine")


def test_no_other_variable_sends_requests_elsewhere(
    container: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def hear(request: BaseHTTPRequestHandler) -> Reply:
        heard.append(request.path)
        return 404, b"", {}

    with answering(hear) as elsewhere:
        for name, value in {
            "AZURE_ENDPOINT": elsewhere,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": elsewhere,
            "AZURE_CONTAINER_NAME": "another",
        }.items():
            monkeypatch.setenv(name, value)
        assert open_source("az", settings).resolve(at(container)).files
    assert not heard


def test_the_token_of_a_rule_is_sent_and_a_refusal_does_not_repeat_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_TOKEN_TEAM", "tokenOfTheTeam")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
    seen: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request.headers.get("Authorization", ""))
        body = b"<Error><Code>InvalidAuthenticationInfo</Code><Message>Bearer tokenOfTheTeam\nis bad</Message></Error>"
        return 401, body, {}

    with answering(reply) as endpoint:
        rule = SourceRule(match="az://a/*", endpoint_url=endpoint, token_env="LORA_CLI_TOKEN_TEAM")
        error = error_of(lambda: open_source("az", settings, rule).resolve(at("abc")))
    assert seen == ["Bearer tokenOfTheTeam"]
    assert isinstance(error, AccessDenied)
    assert "LORA_CLI_TOKEN_TEAM" in error.message
    assert "tokenOf" not in error.message + error.hint


def listing(count: int, after: str) -> bytes:
    properties = "<Last-Modified>Fri, 27 Nov 2026 17:20:28 GMT</Last-Modified><Etag>0x1</Etag><Content-Length>1</Content-Length><Content-Type>x</Content-Type>"  # noqa: E501
    names = (f"sql/{after}{number}" for number in range(count))
    blobs = "".join(f"<Blob><Name>{name}</Name><Properties>{properties}</Properties></Blob>" for name in names)
    marker = f"<NextMarker>{after}</NextMarker>" if after else ""
    return f"<EnumerationResults><Blobs>{blobs}</Blobs>{marker}</EnumerationResults>".encode()


def test_a_listing_without_end_is_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        asked.append(request.path)
        return 200, listing(2500, "x" * len(asked)), {}

    with answering(reply) as endpoint:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
        error = error_of(lambda: open_source("az", settings).resolve(at("abc")))
    assert isinstance(error, Refused)
    assert "over 10000 entries" in error.message


def test_a_listing_of_several_pages_is_whole(server: AzureServer, settings: Settings) -> None:
    container = server.container()
    names = {f"sql/{number:04}" for number in range(1100)}
    server.put(container, dict.fromkeys(names, b"1"))
    found = open_source("az", settings).resolve(at(container)).files
    assert {f"sql/{file.path}" for file in found} == names


def test_a_busy_server_is_left_after_the_retries(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    asked: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        asked.append(request.command)
        return 503, b"<Error><Code>ServerBusy</Code></Error>", {}

    with answering(reply) as endpoint:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        source = open_source("az", replace(settings, retries=1))
        assert isinstance(error_of(lambda: source.resolve(at("abc"))), Unreachable)
    assert asked.count("GET") == 2


def test_a_connection_that_never_lasts_for_a_whole_piece_brings_the_file_all_the_same(
    server: AzureServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    container, content = server.container(), os.urandom(1 << 20)
    server.put(container, {f"sql/{WEIGHTS}": content})
    with FaultyProxy(server.endpoint.rpartition("/")[0]) as proxy:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{proxy.url}/{server.account}")
        source = open_source("az", replace(settings, retries=1))
        revision = source.resolve(at(container))
        proxy.fault("GET .*adapter", cut_at=200_000, times=-1)
        assert b"".join(source.read(revision, revision.files[0], 0, None)) == content


def test_a_forked_process_is_refused(container: str, settings: Settings) -> None:
    source = open_source("az", settings)
    source.resolve(at(container))
    child = os.fork()
    if not child:
        try:
            source.resolve(at(container))
        except MachineError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
