"""Whose credentials are used for a bucket, and which server is asked: files in a home of their own, a server nearby."""

import hashlib
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest

from lora_cli.core.reference import AdapterRef, Scheme
from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, LoraCliError, MissingExtra, Unreachable, UsageError
from lora_cli.redaction import redact
from lora_cli.settings import Settings
from lora_cli.sources import Source, cloud_credentials
from lora_cli.sources.cloud_credentials import NOBODY, find_account
from lora_cli.sources.registry import endpoint_of, open_source
from tests.answering import Reply, answering
from tests.object_servers import AZURITE_KEY, AzureServer, GcsServer
from tests.sources.buckets import CONTENT, REF, at, error_of, listing, piece_of, read
from tests.sources.certificates import localhost_certificate

GOOGLE, AZURE = AdapterRef("gs", "abc/sql"), AdapterRef("az", "abc/sql")
KEYS = {"AWS_ACCESS_KEY_ID": "AKIASOMEBODY", "AWS_SECRET_ACCESS_KEY": "hunter2"}
SESSION = "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.awsapps.com/start\n"
SSO = "sso_session = corp\nsso_account_id = 1\nsso_role_name = r"
ROLE = """<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>AKIAROLE</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey><SessionToken>session</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {"HOME": tmp_path, "AWS_CONFIG_FILE": tmp_path / "config"}.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", timeout_s=5, retries=0)


def profile(home: Path, text: str) -> None:
    (home / "config").write_text(f"[profile team]\n{text}\n{SESSION}")


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


class Cloud:
    """A server that is a bucket and whoever gives out its keys; ``keys`` are those that signed what the bucket saw."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def reply(self, request: BaseHTTPRequestHandler) -> Reply:
        if request.path.startswith("/federation/credentials"):
            assert request.headers["x-amz-sso_bearer_token"] == "token of the session"
            role = {"accessKeyId": "AKIASSO", "secretAccessKey": "s", "sessionToken": "t", "expiration": 4070908800000}
            return 200, json.dumps({"roleCredentials": role}).encode(), {}
        if request.command == "POST":
            assert b"WebIdentityToken=token+of+the+pod" in request.body  # type: ignore[attr-defined]
            return 200, ROLE.encode(), {}
        self.keys.append(request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0])
        return piece_of(request)


@pytest.fixture
def cloud() -> Iterator[tuple[str, Cloud]]:
    there = Cloud()
    with answering(there.reply) as endpoint:
        yield endpoint, there


def _environment(home: Path, patch: pytest.MonkeyPatch, endpoint: str) -> None:
    set_all(patch, {**KEYS, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})


def _named_profile(home: Path, patch: pytest.MonkeyPatch, endpoint: str) -> None:
    (home / "credentials").write_text("[team]\naws_access_key_id = AKIATEAM\naws_secret_access_key = hunter2\n")
    profile(home, f"endpoint_url = {endpoint}")
    set_all(patch, {"AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"), "AWS_PROFILE": "team"})


def _process(home: Path, patch: pytest.MonkeyPatch, endpoint: str) -> None:
    keys = {"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "s", "Expiration": "2099-01-01T00:00:00Z"}
    (home / "keys.json").write_text(json.dumps(keys))
    profile(home, f"credential_process = cat {home / 'keys.json'}")
    set_all(patch, {"AWS_PROFILE": "team", "AWS_ENDPOINT_URL": endpoint})


def _sso(home: Path, patch: pytest.MonkeyPatch, endpoint: str) -> None:
    profile(home, f"services = here\nregion = eu-west-1\n{SSO}\n[services here]\ns3 =\n  endpoint_url = {endpoint}")
    cache = home / ".aws/sso/cache"
    cache.mkdir(parents=True)
    cached = {"accessToken": "token of the session", "expiresAt": "2099-01-01T00:00:00Z"}
    (cache / f"{hashlib.sha1(b'corp', usedforsecurity=False).hexdigest()}.json").write_text(json.dumps(cached))
    # botocore looks there for the home of its user when it is imported.
    patch.setattr("botocore.tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR", str(cache))
    set_all(patch, {"AWS_PROFILE": "team", "AWS_ENDPOINT_URL_SSO": endpoint})


def _web_identity(home: Path, patch: pytest.MonkeyPatch, endpoint: str) -> None:
    (home / "token").write_text("token of the pod")
    role = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": str(home / "token")}
    set_all(patch, {**role, "AWS_ENDPOINT_URL": endpoint})


@pytest.mark.parametrize(
    ("arranged", "key"),
    [
        (_environment, "AKIASOMEBODY"),
        (_named_profile, "AKIATEAM"),
        (_process, "AKIAPROCESS"),
        (_sso, "AKIASSO"),
        (_web_identity, "AKIAROLE"),
    ],
)
def test_keys_and_endpoint_are_found_as_the_aws_tools_find_them(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    cloud: tuple[str, Cloud],
    arranged: Callable[[Path, pytest.MonkeyPatch, str], None],
    key: str,
) -> None:
    endpoint, there = cloud
    arranged(home, monkeypatch, endpoint)
    assert endpoint_of(REF, settings) == endpoint
    assert read(open_source("s3", settings)) == CONTENT
    assert there.keys == [key, key]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SSO, "aws sso login --profile team"),
        ("credential_process = sh -c 'echo hunter2 >&2; exit 1'", "the profile team has no credentials"),
        ("credential_process = echo hunter2", "the profile team has no credentials"),
        ("credential_process = /no/such/program", "the profile team has no credentials"),
        ("role_arn = arn:aws:iam::1:role/r\nsource_profile = none", "of the profile team is invalid"),
    ],
)
def test_a_profile_that_gives_nothing_says_why_without_what_its_process_printed(
    home: Path, settings: Settings, text: str, says: str
) -> None:
    profile(home, text)
    rule = SourceRule(match="s3://abc/*", endpoint_url="http://127.0.0.1:9", profile="team")
    error = error_of(lambda: open_source("s3", settings, rule).resolve(REF))
    assert isinstance(error, UsageError if "is invalid" in says else AccessDenied)
    assert says in error.message + error.hint
    assert "hunter2" not in error.message + error.hint


@pytest.mark.parametrize(
    ("variables", "config", "url", "endpoint"),
    [
        ({"AWS_REGION": "eu-west-1"}, "", "https://abc.s3.eu-west-1.amazonaws.com", ""),
        ({}, "region = cn-north-1", "https://abc.s3.cn-north-1.amazonaws.com.cn", ""),
        ({}, "region = eu-west-1\ns3 =\n  addressing_style = path", "https://s3.eu-west-1.amazonaws.com", ""),
        (
            {"AWS_REGION": "us-west-2", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
            "",
            "https://abc.s3-fips.dualstack.us-west-2.amazonaws.com",
            "",
        ),
        ({"AWS_ENDPOINT_URL": "https://minio.acme"}, "", "https://minio.acme", "https://minio.acme"),
        (
            {"AWS_ENDPOINT_URL": "https://no.acme", "AWS_ENDPOINT_URL_S3": "https://minio.acme"},
            "s3 =\n  addressing_style = virtual",
            "https://abc.minio.acme",
            "https://minio.acme",
        ),
        ({}, "endpoint_url = https://minio.acme", "https://minio.acme", "https://minio.acme"),
        (
            {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "region = eu-west-1\nendpoint_url = https://minio.acme",
            "https://abc.s3.eu-west-1.amazonaws.com",
            "",
        ),
    ],
)
def test_the_endpoint_is_the_one_that_botocore_asks(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], config: str, url: str, endpoint: str
) -> None:
    from botocore.session import Session

    (home / "config").write_text(f"[default]\n{config}\n")
    set_all(monkeypatch, {**KEYS, **variables})
    account, asked = find_account("s3", "abc"), list[str]()

    def hear(request: AWSPreparedRequest, **_: object) -> None:
        asked.append(request.url)
        raise ConnectionError

    # Of the variables of AWS's tools it does not know AWS_REGION.
    client = Session().create_client("s3", region_name=variables.get("AWS_REGION"))
    client.meta.events.register_first("before-send.s3", hear)
    with pytest.raises(ConnectionError):
        client.head_object(Bucket="abc", Key="x")
    place = account.place("abc", "")
    assert (account.endpoint, place["endpoint"]) == (endpoint, url)
    assert asked == [f"{url}/x" if place["virtual_hosted_style_request"] else f"{url}/abc/x"]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "ca_bundle"])
def test_a_certificate_that_is_not_trusted_is_refused_and_trusted_by_name(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority, chain = localhost_certificate(home)
    context.load_cert_chain(chain)

    def secure(running: ThreadingHTTPServer) -> None:
        running.socket = context.wrap_socket(running.socket, server_side=True)

    set_all(monkeypatch, KEYS)
    with answering(piece_of, prepare=secure) as plain:
        monkeypatch.setenv("AWS_ENDPOINT_URL", plain.replace("http://127.0.0.1", "https://localhost"))
        error = error_of(lambda: open_source("s3", Settings(home, retries=3)).resolve(REF))
        assert isinstance(error, Unreachable)
        assert "is not trusted" in error.message
        assert "tried" not in error.message
        assert "AWS_CA_BUNDLE" in error.hint
        if variable == "ca_bundle":
            (home / "config").write_text(f"[default]\nca_bundle = {authority}\n")
        else:
            monkeypatch.setenv(variable, str(authority))
        assert read(open_source("s3", settings)) == CONTENT


def test_a_proxy_is_asked_for_a_bucket_behind_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, cloud: tuple[str, Cloud]
) -> None:
    endpoint, there = cloud
    set_all(monkeypatch, {**KEYS, "AWS_ENDPOINT_URL": "http://minio.invalid", "HTTP_PROXY": endpoint})
    assert read(open_source("s3", settings)) == CONTENT
    monkeypatch.setenv("NO_PROXY", "minio.invalid")
    assert isinstance(error_of(lambda: open_source("s3", settings).resolve(REF)), Unreachable)
    assert there.keys == ["AKIASOMEBODY"] * 2


@pytest.mark.parametrize(
    ("scheme", "variable", "value"),
    [
        ("s3", "AWS_ENDPOINT_URL", "minio.acme.internal"),
        ("s3", "AWS_ENDPOINT_URL_S3", "http://me:hunter2@127.0.0.1:9"),
        ("s3", "AWS_ENDPOINT_URL", "http://127.0.0.1:99999"),
        ("s3", "AWS_REGION", "not a region"),
        ("gs", "STORAGE_EMULATOR_HOST", "http://me:hunter2@127.0.0.1:9"),
        ("az", "AZURE_STORAGE_ACCOUNT", "https://acme"),
        ("az", "AZURE_STORAGE_ENDPOINT", "acme"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_and_not_repeated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, scheme: Scheme, variable: str, value: str
) -> None:
    set_all(monkeypatch, {**KEYS, "AZURE_STORAGE_ACCOUNT": "acme", variable: value})
    error = error_of(lambda: open_source(scheme, settings).resolve(at("abc", scheme=scheme)))
    assert isinstance(error, UsageError)
    assert variable in error.message
    assert value not in error.message + error.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ref", "variable", "says"),
    [(REF, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "no AWS cred"), (GOOGLE, "GCE_METADATA_HOST", "no Google cred")],
)
def test_without_credentials_nobody_waits_long_for_a_machine_of_the_cloud(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, ref: AdapterRef, variable: str, says: str
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        # A listener whose queue is full does not answer, as the address does not outside of the cloud.
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        monkeypatch.setenv(variable, f"http://{address}" if ref is REF else address)
        began = time.monotonic()
        error = error_of(lambda: open_source(ref.scheme, settings).resolve(ref))
        spent = time.monotonic() - began
        for one in waiting:
            one.close()
    assert isinstance(error, AccessDenied)
    assert says in error.message
    assert "SKIP_SIGNATURE" in error.hint
    assert spent < 5


@pytest.mark.parametrize("content", [None, "x", "{}", "[]"])
def test_a_file_that_holds_no_credentials_is_named(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = home / "key.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    error = error_of(lambda: open_source("gs", settings).resolve(GOOGLE))
    assert isinstance(error, UsageError)
    assert f"{file} contains no usable Google credentials" in error.message


@pytest.mark.parametrize(
    ("ref", "modules", "extra"),
    [(GOOGLE, ("google.auth",), "gcs"), (AZURE, ("azure.identity", "obstore.auth.azure"), "azure")],
)
def test_without_its_library_the_extra_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ref: AdapterRef, modules: tuple[str, ...], extra: str
) -> None:
    set_all(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": "key.json", "AZURE_STORAGE_ACCOUNT_NAME": "acme"})
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    error = error_of(lambda: open_source(ref.scheme, settings).resolve(ref))
    assert isinstance(error, MissingExtra)
    assert f"lora-cli[{extra}]" in error.hint


BLOBS = (
    b"<EnumerationResults><Blobs><Blob><Name>sql/a</Name><Properties><Last-Modified>Fri, 27 Nov 2026 17:20:28 GMT"
    b"</Last-Modified><Etag>0x1</Etag><Content-Length>1</Content-Length><Content-Type>x</Content-Type></Properties>"
    b"</Blob></Blobs></EnumerationResults>"
)
DENIED = b"<Error><Code>{}</Code><Message>Bearer ya29.secretOfTheTeam\nis bad</Message></Error>"


@pytest.mark.parametrize(
    ("ref", "answer", "code"), [(GOOGLE, listing(["sql/a"]), b"AuthenticationRequired"), (AZURE, BLOBS, b"InvalidAuth")]
)
def test_the_token_of_a_rule_is_sent_and_a_refusal_does_not_repeat_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, ref: AdapterRef, answer: bytes, code: bytes
) -> None:
    set_all(monkeypatch, {"LORA_CLI_TOKEN_TEAM": "ya29.secretOfTheTeam", "AZURE_STORAGE_ACCOUNT_NAME": "acme"})
    seen: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        seen.append(request.headers.get("Authorization", ""))
        return (200, answer, {}) if len(seen) == 1 else (401, DENIED.replace(b"{}", code), {})

    with answering(reply) as endpoint:
        rule = SourceRule(match=f"{ref.scheme}://a/*", endpoint_url=endpoint, token_env="LORA_CLI_TOKEN_TEAM")
        assert [file.path for file in open_source(ref.scheme, settings, rule).resolve(ref).files] == ["a"]
        error = error_of(lambda: open_source(ref.scheme, settings, rule).resolve(ref))
        monkeypatch.delenv("LORA_CLI_TOKEN_TEAM")
        unset = error_of(lambda: open_source(ref.scheme, settings, rule).resolve(ref))
    assert seen == ["Bearer ya29.secretOfTheTeam"] * 2
    assert isinstance(error, AccessDenied)
    assert "does not accept the credentials from LORA_CLI_TOKEN_TEAM" in error.message
    assert "ya29" not in error.message + error.hint
    assert isinstance(unset, UsageError)
    assert "LORA_CLI_TOKEN_TEAM" in unset.message


@pytest.mark.parametrize(
    ("ref", "server", "rule", "found_in"),
    [
        (GOOGLE, "http://127.0.0.1:9", {}, NOBODY),
        (GOOGLE, "https://mirror.acme", {}, NOBODY),
        (GOOGLE, "https://googleapis.com.acme", {}, NOBODY),
        (GOOGLE, "https://storage-x.p.googleapis.com", {}, "key.json contains no usable"),
        (GOOGLE, "http://mirror.acme", {"token_env": "LORA_CLI_TOKEN"}, "are not sent without encryption"),
        (AZURE, "https://mirror.acme", {}, NOBODY),
        (AZURE, "https://acme.blob.core.windows.net", {}, "Azure's default credentials"),
        (AZURE, "http://acme.blob.core.windows.net", {}, "are not sent without encryption"),
    ],
)
def test_a_token_is_sent_to_its_own_provider_and_encrypted(
    monkeypatch: pytest.MonkeyPatch, ref: AdapterRef, server: str, rule: dict[str, str], found_in: str
) -> None:
    google = {"GOOGLE_APPLICATION_CREDENTIALS": "key.json", "LORA_CLI_TOKEN": "ya29.secret"}
    set_all(monkeypatch, {**google, "AZURE_STORAGE_ACCOUNT_NAME": "acme"})
    named = SourceRule.model_validate({"match": "*", "endpoint_url": server, **rule})
    try:
        found = find_account(ref.scheme, ref.location, named).found_in
    except LoraCliError as error:
        found = error.message
    assert found_in in found


def test_a_federated_identity_is_asked_of_googles_own_library(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.path == "/token":
            token = {"access_token": "federated", "issued_token_type": "t", "token_type": "Bearer", "expires_in": 3600}
            return 200, json.dumps(token).encode(), {}
        known = request.headers["Authorization"] == "Bearer federated"
        return (200, listing(["sql/a"]), {}) if known else (403, b"", {})

    with answering(reply) as endpoint:
        (home / "subject").write_text("subject-token")
        document = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{endpoint}/token",
            "credential_source": {"file": str(home / "subject")},
        }
        (home / "federated.json").write_text(json.dumps(document))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "federated.json"))
        monkeypatch.setattr(cloud_credentials, "GOOGLE", endpoint)
        assert [file.path for file in open_source("gs", settings).resolve(GOOGLE).files] == ["a"]
    error = error_of(lambda: open_source("gs", settings).resolve(GOOGLE))
    assert isinstance(error, Unreachable)
    assert "no connection to the service that renews the credentials from" in error.message


def test_the_identity_of_a_machine_of_azure_gives_the_token(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        if request.path.startswith("/identity"):
            token = {"access_token": "tokenOfTheMachine", "expires_on": "4102444800", "resource": "r"}
            return 200, json.dumps({**token, "token_type": "B"}).encode(), {"Content-Type": "application/json"}
        seen.append(request.headers.get("Authorization", ""))
        return 200, BLOBS, {}

    with answering(reply) as endpoint:
        identity = {"IDENTITY_ENDPOINT": f"{endpoint}/identity", "IDENTITY_HEADER": "x"}
        chosen = {"AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential", "AZURE_STORAGE_ENDPOINT": endpoint}
        set_all(monkeypatch, {**identity, **chosen, "AZURE_STORAGE_ACCOUNT_NAME": "acme"})
        assert [file.path for file in open_source("az", settings).resolve(AZURE).files] == ["a"]
    assert set(seen) == {"Bearer tokenOfTheMachine"}
    assert "tokenOfTheMachine" not in redact("the server says tokenOfTheMachine")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmcga2V5IG9mIEFsaWNl" * 3}, "from {}"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": "", "AZURE_STORAGE_SAS_TOKEN": "sv=2021-08-06&sig=wrongOfAlice"}, "from {}"),
        ({"AZURE_SKIP_SIGNATURE": "true"}, "unset {}"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": "this is no base64"}, "the credentials from {} cannot be used"),
        # Of the chain nothing but the environment's own identity, and that is not there.
        ({"AZURE_STORAGE_ACCOUNT_KEY": "", "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential"}, "az login"),
    ],
    ids=["key", "signature", "nobody", "no key", "no identity"],
)
def test_who_is_not_let_in_at_azure_is_told_so_and_no_secret_is_repeated(
    azure_server: AzureServer,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    says: str,
) -> None:
    container = azure_server.container()
    set_all(monkeypatch, {**azure_server.environ, **changed})
    error = error_of(lambda: open_source("az", settings).resolve(at(container, scheme="az")))
    assert isinstance(error, AccessDenied)
    assert says.format(next(reversed(changed))) in error.message + error.hint
    secrets = [value for name, value in changed.items() if name.startswith("AZURE_STORAGE") and value]
    assert not any(secret in error.message + error.hint for secret in secrets)


def test_a_shared_access_signature_is_enough(
    azure_server: AzureServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    container, until = azure_server.container(), datetime.now(UTC) + timedelta(hours=1)
    azure_server.put(container, {"my żółw #1/a": b"x"})
    may = ContainerSasPermissions(read=True, list=True)
    token = generate_container_sas(azure_server.account, container, AZURITE_KEY, permission=may, expiry=until)
    signed = {"AZURE_STORAGE_ACCOUNT_KEY": "", "AZURE_STORAGE_SAS_TOKEN": f"?{token}"}
    set_all(monkeypatch, {**azure_server.environ, **signed})
    source: Source = open_source("az", settings)
    ref = AdapterRef("az", f"{container}@{azure_server.account}.dfs.core.windows.net/my żółw #1")
    revision = source.resolve(ref)
    assert b"".join(source.read(revision, revision.files[0], 0, None)) == b"x"


def test_secrets_of_the_environment_are_for_its_own_account_of_azure(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(location: str) -> tuple[str, str]:
        account = find_account("az", location)
        assert account.endpoint == endpoint_of(AdapterRef("az", location), settings)
        return account.found_in, account.endpoint

    unknown: LoraCliError = error_of(lambda: find_account("az", "loras/sql"))
    assert "AZURE_STORAGE_ACCOUNT_NAME" in unknown.hint
    there = {"AZURE_STORAGE_ACCOUNT": "acme", "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9/acme"}
    set_all(monkeypatch, {**there, "AZURE_STORAGE_KEY": AZURITE_KEY})
    assert found("loras/sql") == ("AZURE_STORAGE_KEY", "http://127.0.0.1:9/acme")
    assert found("loras@acme.dfs.core.windows.net/sql") == ("AZURE_STORAGE_KEY", "http://127.0.0.1:9/acme")
    other = "Azure's default credentials", "https://other.blob.core.windows.net"
    assert found("loras@other.dfs.core.windows.net/sql") == other


def test_no_other_variable_sends_requests_elsewhere(
    gcs_server: GcsServer, azure_server: AzureServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def hear(request: BaseHTTPRequestHandler) -> Reply:
        heard.append(request.path)
        return 404, b"", {}

    bucket, container = gcs_server.bucket(), azure_server.container()
    gcs_server.put(bucket, {"sql/a": b"x"})
    azure_server.put(container, {"sql/a": b"x"})
    with answering(hear) as elsewhere:
        google = {"GOOGLE_BASE_URL": elsewhere, "GOOGLE_BUCKET": "another"}
        azure = {"AZURE_ENDPOINT": elsewhere, "AZURE_STORAGE_USE_EMULATOR": "true", "AZURE_CONTAINER_NAME": "another"}
        own = {**azure_server.environ, "STORAGE_EMULATOR_HOST": gcs_server.endpoint}
        set_all(monkeypatch, {**google, **azure, **own, "AZURITE_BLOB_STORAGE_URL": elsewhere})
        assert open_source("gs", settings).resolve(at(bucket, scheme="gs")).files
        assert open_source("az", settings).resolve(at(container, scheme="az")).files
    assert not heard
