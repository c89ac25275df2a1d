"""Whose credentials are used for a bucket, and which server is asked: files in a home of their own, a server nearby."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lora_cli.documents.source_rules import SourceRule
from lora_cli.errors import AccessDenied, MissingExtra, Unreachable, UsageError
from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import Settings
from lora_cli.sources.registry import endpoint_of, open_source
from tests.answering import Asked, Listening, Reply, answering
from tests.object_servers import AzureServer, S3Server
from tests.sources.asking import Kind, Patch, content, error_of
from tests.sources.buckets import CONTENT, REF, at, listing, piece_of

GOOGLE, AZURE = AdapterRef("gs", "abc/sql"), AdapterRef("az", "abc/sql")
KEYS = {"AWS_ACCESS_KEY_ID": "AKIASOMEBODY", "AWS_SECRET_ACCESS_KEY": "hunter2"}
TEAM = "aws_access_key_id = AKIATEAM\naws_secret_access_key = hunter2\n"
SSO = "sso_session = corp\nsso_account_id = 1\nsso_role_name = r\nregion = eu-west-1\n"
SESSION = "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.awsapps.com/start\n"
PROCESS = {"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "s", "Expiration": "2099-01-01T00:00:00Z"}
ROLE = """<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>AKIAROLE</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey><SessionToken>session</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The home of someone with a pod's token and a session of SSO."""
    set_all(monkeypatch, {"HOME": str(tmp_path), "AWS_CONFIG_FILE": str(tmp_path / "config")})
    (tmp_path / "token").write_text("token of the pod")
    cached = {"accessToken": "token of the session", "expiresAt": "2099-01-01T00:00:00Z"}
    (tmp_path / f"{hashlib.sha1(b'corp', usedforsecurity=False).hexdigest()}.json").write_text(json.dumps(cached))
    # botocore looks there for the home of its user when it is imported.
    monkeypatch.setattr("botocore.tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def set_all(monkeypatch: Patch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


class World:
    """A proxy that is every server: a bucket, and whoever gives out its keys. ``asked`` is what a bucket was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def reply(self, request: Asked) -> Reply:
        url = urlsplit(request.path)
        if url.path.startswith("/federation/credentials"):
            assert request.headers["x-amz-sso_bearer_token"] == "token of the session"
            role = {"accessKeyId": "AKIASSO", "secretAccessKey": "s", "sessionToken": "t", "expiration": 4070908800000}
            return 200, json.dumps({"roleCredentials": role}).encode(), {}
        if request.command == "POST":
            assert b"WebIdentityToken=token+of+the+pod" in request.body
            return 200, ROLE.encode(), {}
        signed = request.headers.get("Authorization", "").partition("Credential=")[2].split("/")
        self.asked.append((url.netloc or request.path, url.path, signed[0], "".join(signed[2:3])))
        return (403, b"", {}) if request.command == "CONNECT" else piece_of(request)


@pytest.fixture
def world(monkeypatch: Patch) -> Iterator[World]:
    def takes_connect(running: Listening) -> None:
        handler: Any = running.RequestHandlerClass
        handler.do_CONNECT = handler.do_GET

    there = World()
    with answering(there.reply, prepare=takes_connect) as address:
        set_all(monkeypatch, {"HTTP_PROXY": address, "HTTPS_PROXY": address})
        yield there


MINIO = {"AWS_ENDPOINT_URL": "http://minio.acme"}
ENVIRONMENTS: dict[str, tuple[dict[str, str], str, tuple[str, ...]]] = {
    "keys": ({**KEYS, "AWS_ENDPOINT_URL_S3": "http://minio.acme", "AWS_ENDPOINT_URL": "http://no.acme"}, "",
             ("minio.acme", "/abc", "AKIASOMEBODY", "us-east-1")),
    "profile": ({"AWS_PROFILE": "team"}, f"{TEAM}endpoint_url = http://minio.acme",
                ("minio.acme", "/abc", "AKIATEAM", "us-east-1")),
    "process": ({"AWS_PROFILE": "team", **MINIO}, f"credential_process = echo '{json.dumps(PROCESS)}'",
                ("minio.acme", "/abc", "AKIAPROCESS", "us-east-1")),
    "SSO": ({"AWS_PROFILE": "team", "AWS_ENDPOINT_URL_SSO": "http://sso.acme"},
            f"{SSO}services = here\n[services here]\ns3 =\n  endpoint_url = http://minio.acme",
            ("minio.acme", "/abc", "AKIASSO", "eu-west-1")),
    "web identity": ({"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": "token",
                      **MINIO}, "", ("minio.acme", "/abc", "AKIAROLE", "us-east-1")),
    "virtual": ({**MINIO, "AWS_PROFILE": "team"}, f"{TEAM}s3 =\n  addressing_style = virtual",
                ("abc.minio.acme", "/", "AKIATEAM", "us-east-1")),
    "region": ({**KEYS, "AWS_REGION": "eu-west-1"}, "", ("abc.s3.eu-west-1.amazonaws.com:443",)),
    "China": ({"AWS_PROFILE": "team"}, f"{TEAM}region = cn-north-1", ("abc.s3.cn-north-1.amazonaws.com.cn:443",)),
    "FIPS": ({**KEYS, "AWS_REGION": "us-west-2", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
             "", ("abc.s3-fips.dualstack.us-west-2.amazonaws.com:443",)),
    "ignored": ({"AWS_PROFILE": "team", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
                f"{TEAM}region = eu-west-1\nendpoint_url = http://minio.acme", ("abc.s3.eu-west-1.amazonaws.com:443",)),
}  # fmt: skip
"""Variables, what the profile ``team`` has, and server, path, key and region of what botocore's own client asks."""


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_server_is_asked_that_botocore_asks_with_the_keys_that_it_finds(
    home: Path, monkeypatch: Patch, settings: Settings, world: World, name: str
) -> None:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    variables, profile, asked = ENVIRONMENTS[name]
    (home / "config").write_text(f"[profile team]\n{profile}\n{SESSION}")
    set_all(monkeypatch, variables)
    monkeypatch.chdir(home)
    with suppress(BotoCoreError):
        # Of the variables of AWS's tools it does not know AWS_REGION.
        config = Config(retries={"total_max_attempts": 1})
        client = Session().create_client("s3", region_name=variables.get("AWS_REGION"), config=config)
        client.list_objects_v2(Bucket="abc", Prefix="sql/")
    with suppress(Unreachable):
        open_source("s3", settings).resolve(REF)
    theirs, ours = world.asked
    assert ours == theirs
    assert theirs[: len(asked)] == asked
    assert urlsplit(endpoint_of(REF, settings)).netloc in {"minio.acme", "s3.amazonaws.com"}


@pytest.mark.parametrize(
    ("profile", "kind", "says"),
    [
        (SSO.replace("corp", "other"), AccessDenied, "aws sso login --profile team"),
        ("credential_process = sh -c 'echo hunter2 >&2; exit 1'", AccessDenied, "the profile team has no credentials"),
        ("role_arn = arn:aws:iam::1:role/r\nsource_profile = none", UsageError, "the profile team is not in the AWS"),
    ],
)
def test_a_profile_that_gives_nothing_says_why_without_what_its_process_printed(
    home: Path, settings: Settings, profile: str, kind: Kind, says: str
) -> None:
    (home / "config").write_text(f"[profile team]\n{profile}\n{SESSION.replace('corp', 'other')}")
    rule = SourceRule(match="s3://abc/*", endpoint_url="http://127.0.0.1:9", profile="team")
    error = error_of(lambda: open_source("s3", settings, rule).resolve(REF))
    assert isinstance(error, kind)
    assert says in error.message + error.hint
    assert "hunter2" not in error.message + error.hint


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "AWS_CA_BUNDLE", "ca_bundle"])
def test_a_certificate_that_is_not_trusted_is_refused_and_trusted_by_name(
    seaweed_server: S3Server, home: Path, settings: Settings, monkeypatch: Patch, variable: str
) -> None:
    seaweed_server.put(place := seaweed_server.place(), {"sql/a": CONTENT})
    ref = AdapterRef("s3", f"{place}/sql")
    set_all(monkeypatch, {**seaweed_server.environ, "AWS_ENDPOINT_URL": seaweed_server.secure})
    error = error_of(lambda: open_source("s3", Settings(home, retries=3)).resolve(ref))
    assert isinstance(error, Unreachable)
    assert "is not trusted" in error.message
    assert "tried" not in error.message
    assert "AWS_CA_BUNDLE" in error.hint
    if variable == "ca_bundle":
        (home / "config").write_text(f"[default]\nca_bundle = {seaweed_server.authority}\n")
    else:
        monkeypatch.setenv(variable, str(seaweed_server.authority))
    source = open_source("s3", settings)
    assert content(source, source.resolve(ref), "a") == CONTENT


@pytest.mark.parametrize(
    ("ref", "modules", "extra"),
    [(GOOGLE, ("google.auth",), "gcs"), (AZURE, ("azure.identity", "obstore.auth.azure"), "azure")],
)
def test_without_its_library_the_extra_is_named(
    settings: Settings, monkeypatch: Patch, ref: AdapterRef, modules: tuple[str, ...], extra: str
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acme")
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    error = error_of(lambda: open_source(ref.scheme, settings).resolve(ref))
    assert isinstance(error, MissingExtra)
    assert f"lora-cli[{extra}]" in error.hint


@pytest.mark.parametrize(
    ("ref", "server", "rule", "says"),
    [
        (GOOGLE, "https://googleapis.com.acme", {}, "no connection to googleapis.com.acme"),
        (GOOGLE, "https://storage-x.p.googleapis.com", {}, "key.json contains no usable"),
        (GOOGLE, "http://mirror.acme", {"token_env": "LORA_CLI_TOKEN"}, "are not sent without encryption"),
        (AZURE, "https://mirror.acme", {}, "no connection to mirror.acme"),
        (AZURE, "https://acme.blob.core.windows.net", {}, "the credentials from Azure's default chain cannot be used"),
        (AZURE, "http://acme.blob.core.windows.net", {}, "are not sent without encryption"),
    ],
)
@pytest.mark.usefixtures("world")
def test_a_token_is_sent_to_its_own_provider_and_encrypted(
    settings: Settings, monkeypatch: Patch, ref: AdapterRef, server: str, rule: dict[str, str], says: str
) -> None:
    # Of Azure's chain nothing but the environment's own identity, and that is not there.
    set_all(monkeypatch, {"AZURE_STORAGE_ACCOUNT_NAME": "acme", "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential"})
    set_all(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": "key.json", "LORA_CLI_TOKEN": "ya29.secret"})
    named = SourceRule.model_validate({"match": "*", "endpoint_url": server, **rule})
    assert says in error_of(lambda: open_source(ref.scheme, settings, named).resolve(ref)).message


def test_a_federated_identity_is_asked_of_googles_own_library(
    home: Path, settings: Settings, monkeypatch: Patch
) -> None:
    def reply(request: Asked) -> Reply:
        if request.path == "/token":
            assert b"devstorage.read_only" in request.body
            token = {"access_token": "federated", "issued_token_type": "t", "token_type": "Bearer", "expires_in": 3600}
            return 200, json.dumps(token).encode(), {}
        known = request.headers["Authorization"] == "Bearer federated"
        return (200, listing(["sql/a"]), {}) if known else (403, b"", {})

    with answering(reply) as endpoint:
        document = {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{endpoint}/token",
            "credential_source": {"file": str(home / "token")},
        }
        (home / "federated.json").write_text(json.dumps(document))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "federated.json"))
        monkeypatch.setattr("lora_cli.sources.cloud_credentials.GOOGLE", endpoint)
        assert [file.path for file in open_source("gs", settings).resolve(GOOGLE).files] == ["a"]


KEY, NAME, CHAIN = "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_TOKEN_CREDENTIALS"


@pytest.mark.parametrize(
    ("changed", "account", "says"),
    [
        ({KEY: "d3Jvbmcga2V5IG9mIEFsaWNl" * 3}, "", "the credentials from {}"),
        ({KEY: "", "AZURE_STORAGE_SAS_TOKEN": "sv=2021-08-06&sig=wrongOfAlice"}, "", "the credentials from {}"),
        ({"AZURE_SKIP_SIGNATURE": "true"}, "", "unset {}"),
        # The key is for its own account alone.
        ({CHAIN: "EnvironmentCredential"}, "@other.dfs.core.windows.net", "az login"),
        ({NAME: ""}, "", NAME),
    ],
)
def test_who_is_not_let_in_at_azure_is_told_so_and_no_secret_is_repeated(
    azure_server: AzureServer, settings: Settings, monkeypatch: Patch, changed: dict[str, str], account: str, says: str
) -> None:
    container = azure_server.container()
    set_all(monkeypatch, {**azure_server.environ, **changed})
    error = error_of(lambda: open_source("az", settings).resolve(at(f"{container}{account}", scheme="az")))
    assert isinstance(error, UsageError if "NAME" in says else AccessDenied)
    assert says.format(next(reversed(changed))) in error.message + error.hint
    assert not any(value in error.message + error.hint for name, value in changed.items() if name == KEY and value)
    assert "OfAlice" not in error.message + error.hint
