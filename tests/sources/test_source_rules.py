"""``[[sources]]`` of the settings file decides how each source is reached, and a manifest cannot."""

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.answering import Reply, answering

SECRET = "ownSecretOfTheRule"
BEARER = {f"Bearer {SECRET}"}
BASIC = {f"Basic {base64.b64encode(f'me:{SECRET}'.encode()).decode()}"}
Heard = list[dict[str, str]]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "LORA_CLI_CONFIG": str(tmp_path / "settings.toml"),
        "LORA_CLI_RETRIES": "0",
        "LORA_CLI_TIMEOUT": "5s",
        "ACME_TOKEN": SECRET,
        "ACME_LOGIN": f"me:{SECRET}",
        "AWS_ACCESS_KEY_ID": "AKIAOWN",
        "AWS_SECRET_ACCESS_KEY": "own",
        "AZURE_STORAGE_ACCOUNT_NAME": "acme",
        "HF_TOKEN": "hf_ownOfTheUser",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def heard() -> Heard:
    return []


@pytest.fixture
def server(heard: Heard) -> Iterator[str]:
    """A server that has nothing, keeps the headers that it is sent, and wants a login to its registry."""

    def reply(request: BaseHTTPRequestHandler) -> Reply:
        heard.append({name.lower(): value for name, value in request.headers.items()})
        if request.path.startswith("/v2/") and "Authorization" not in request.headers:
            return 401, b"", {"WWW-Authenticate": 'Basic realm="x"'}
        return 404, b"", {}

    with answering(reply) as endpoint:
        yield endpoint


def write_rule(match: str, **keys: object) -> None:
    lines = [f"match = {json.dumps(match)}", *(f"{key} = {value}" for key, value in keys.items())]
    Path("settings.toml").write_text("\n".join(["[[sources]]", *lines, ""]))


@pytest.mark.parametrize(
    ("ref", "keys", "sent"),
    [
        ("hf://acme/x", {"token_env": '"ACME_TOKEN"'}, BEARER),
        ("hf://acme/x", {}, set()),
        ("s3://acme/x", {"region": '"eu-west-7"', "requester_pays": "true"}, "/eu-west-7/s3/aws4_request"),
        ("s3://acme/x", {"anonymous": "true"}, set()),
        ("gs://acme/x", {"token_env": '"ACME_TOKEN"'}, BEARER),
        ("az://acme/x", {"token_env": '"ACME_TOKEN"'}, BEARER),
        ("az://acme/x", {"anonymous": "true"}, set()),
        ("https://acme.invalid/x", {"token_env": '"ACME_TOKEN"'}, BEARER),
        ("oci://acme.invalid/x:1", {"token_env": '"ACME_LOGIN"'}, BASIC),
        ("fsspec+s3://acme/x", {}, "AKIARULE"),
    ],
)
def test_a_rule_sets_the_server_and_the_credentials_on_the_command_line(
    ref: str, keys: dict[str, str], sent: set[str] | str, server: str, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_KEY", "AKIARULE")
    monkeypatch.setenv("ODD_SECRET", "s3cret-of-the-rule")
    odd = f'{{key_env = "ODD_KEY", secret_env = "ODD_SECRET", client_kwargs = {{endpoint_url = "{server}"}}}}'
    where = {"storage_options": odd} if ref.startswith("fsspec") else {"endpoint_url": f'"{server}"'}
    write_rule(f"{ref.partition('://')[0]}://*", **where, **keys)
    assert main(["fetch", ref]) == 3
    given = {one["authorization"] for one in heard if "authorization" in one}
    assert heard
    assert (given == sent) if isinstance(sent, set) else given and all(sent in one for one in given)
    assert all(one.get("x-amz-request-payer") == ("requester" if "requester_pays" in keys else None) for one in heard)


def write_set(source: str, more: str = "") -> None:
    Path("set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters:\n  - {{name: x, source: '{source}'}}\n{more}"
    )


def test_a_rule_holds_for_a_manifest_and_what_fsspec_reads_needs_one(
    server: str, heard: Heard, capsys: Capture
) -> None:
    write_rule("hf://acme/*", endpoint_url=f'"{server}"', token_env='"ACME_TOKEN"')
    write_set("s3://acme/x", f"sources:\n  - {{match: 's3://*', endpoint_url: '{server}', profile: admin}}\n")
    assert main(["fetch", "-f", "set.yaml"]) == 2
    assert not heard
    write_set("hf://acme/x")
    assert main(["fetch", "-f", "set.yaml"]) == 3
    assert {one.get("authorization") for one in heard} == BEARER
    write_set("fsspec+s3://acme/x")
    assert main(["fetch", "-f", "set.yaml"]) == 2
    assert "a manifest needs a matching rule" in " ".join(capsys.readouterr().err.split())
    options = f'{{anon = true, client_kwargs = {{endpoint_url = "{server}"}}}}'
    write_rule("fsspec+s3://acme/*", storage_options=options)
    write_set("fsspec+s3://acme/x")
    assert main(["fetch", "-f", "set.yaml"]) == 3


WRONG = (
    ('match = "s3://*"\nendpoint = "https://h"', ":3: sources[0].endpoint: unknown key", "did you mean endpoint_url?"),
    (
        'match = "fsspec+s3://*"\n[sources.storage_options]\nclient = 1\nsecret = "own!"',
        ":5: sources[0].storage_options.secret: a secret must not be in the settings file",
        'write secret_env = "NAME"',
    ),
    (
        'match = "hf://*"\nprofile = "x"',
        "[[sources]] hf://*: hf:// does not support profile",
        "endpoint_url, token_env",
    ),
    ('match = "hf://*"\ntoken_env = "ACME_NONE"', "the variable ACME_NONE is not set", "set it, or remove token_env"),
)


@pytest.mark.parametrize(("rule", "says", "hint"), WRONG)
def test_a_wrong_rule_is_told_with_its_line_and_key(rule: str, says: str, hint: str, capsys: Capture) -> None:
    Path("settings.toml").write_text(f"[[sources]]\n{rule}\n")
    assert main(["fetch", "hf://acme/x"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert says in err
    assert hint in err
    assert "own!" not in err
