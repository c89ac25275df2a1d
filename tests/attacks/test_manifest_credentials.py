"""A manifest of somebody else asks for the operator's secrets, and names the servers that are to get them."""

import json

import pytest

from tests.attacks.evil import ANOTHER_MACHINE, KEYS, asked, evil
from tests.planted import SECRET, SESSION, TOKEN, Machine

SCHEMES = {"hf": "hf://evil/x", "http": "{}/x", "gs": "gs://evil/x"}


@pytest.mark.parametrize(
    ("variable", "scheme", "command"),
    [
        *((name, "hf", "fetch") for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PATH")),
        ("LORA_CLI_API_KEY", "hf", "fetch"),
        *(("GITHUB_TOKEN", scheme, command) for scheme in SCHEMES for command in ("fetch", "validate", "inspect")),
    ],
)
def test_no_variable_is_read_that_nobody_gave_to_manifests(
    machine: Machine, variable: str, scheme: str, command: str
) -> None:
    with evil() as server:
        source = SCHEMES[scheme].format(server.endpoint)
        rule = f"match: '{scheme}://*', endpoint_url: '{server.endpoint}', token_env: {variable}"
        code = asked(machine, rule, source, command, **{variable: machine.environ.get(variable, SECRET)})
        assert code == 1
        assert not server.heard
    assert machine.leaks() == []


def test_a_variable_is_named_with_how_it_is_allowed(machine: Machine) -> None:
    assert asked(machine, "match: 'hf://*', token_env: GITHUB_TOKEN", "hf://acme/x", GITHUB_TOKEN=SECRET) == 1
    assert "GITHUB_TOKEN" in machine.said[-1]
    assert "LORA_CLI_TOKEN_NAME" in machine.said[-1]
    assert "allow_token_env" in machine.said[-1]
    assert asked(machine, "match: 'hf://*', token_env: LORA_CLI_API_KEY", "hf://acme/x", LORA_CLI_API_KEY=SECRET) == 1
    assert "cannot be the token of a manifest" in machine.said[-1]


@pytest.mark.parametrize("how", ["variable", "policy", "settings"])
def test_the_operators_word_lets_a_manifest_read_a_variable(machine: Machine, how: str) -> None:
    environ = {"ACME_TOKEN": SECRET, **word(machine, how, "allow_token_env", "ACME_TOKEN")}
    with evil() as server:
        rule = f"match: 'hf://*', endpoint_url: '{server.endpoint}', token_env: ACME_TOKEN"
        assert asked(machine, rule, "hf://acme/x", **environ) == 3
        assert server.credentials == [f"Bearer {SECRET}"]


def word(machine: Machine, how: str, key: str, value: str) -> dict[str, str]:
    """The environment of an operator who says so in one of the three places."""
    if how == "variable":
        return {f"LORA_CLI_{key.upper()}": value}
    name, text = (
        ("policy", f"apiVersion: lora-cli/v1\nkind: Policy\n{key}: ['{value}']\n")
        if how == "policy"
        else ("config", f"{key} = ['{value}']\n")
    )
    (machine.root / f"{how}.file").write_text(text)
    return {f"LORA_CLI_{name.upper()}": str(machine.root / f"{how}.file")}


def test_a_variable_for_manifests_is_not_unknown(machine: Machine) -> None:
    with evil() as server:
        rule = f"match: 'hf://*', endpoint_url: '{server.endpoint}', token_env: LORA_CLI_TOKEN_ACME"
        assert asked(machine, rule, "hf://acme/x", LORA_CLI_TOKEN_ACME=SECRET) == 3
        assert server.credentials == [f"Bearer {SECRET}"]
    assert "unknown variable" not in machine.said[-1]
    assert machine.leaks() == []
    assert machine.run("cache", "ls", LORA_CLI_TOKEN_ACME=SECRET, LORA_CLI_TOKEN="x") == 2
    assert "unknown variable in the environment: LORA_CLI_TOKEN" in machine.said[-1]
    assert "LORA_CLI_TOKEN_ACME" not in machine.said[-1]


@pytest.mark.parametrize("command", ["fetch", "validate", "inspect"])
def test_the_keys_of_a_cloud_are_not_sent_where_only_a_manifest_says(machine: Machine, command: str) -> None:
    with evil() as server:
        rule = f"match: 's3://*', endpoint_url: '{server.endpoint}'"
        assert asked(machine, rule, "s3://bucket/x", command, **KEYS) == 1
        assert "trusted_endpoints" in "".join(machine.said[-2:])
        assert server.endpoint in "".join(machine.said[-2:])
        assert not server.heard
        # Whoever asks without credentials may ask anybody.
        assert asked(machine, f"{rule}, anonymous: true", "s3://bucket/x", command, **KEYS) == 3
        assert server.heard
        assert server.credentials == []
    assert machine.leaks() == []


@pytest.mark.parametrize("how", ["variable", "policy", "settings"])
def test_a_trusted_server_gets_signed_requests_of_a_manifest(machine: Machine, how: str) -> None:
    with evil() as server:
        rule = f"match: 's3://*', endpoint_url: '{server.endpoint}'"
        environ = KEYS | word(machine, how, "trusted_endpoints", server.endpoint)
        assert asked(machine, rule, "s3://bucket/x", **environ) == 3
        assert SESSION in server.credentials


def test_a_server_that_the_operator_asks_anyway_may_be_named(machine: Machine) -> None:
    with evil() as server:
        rule = f"match: 's3://*', endpoint_url: '{server.endpoint}/'"
        assert asked(machine, rule, "s3://bucket/x", AWS_ENDPOINT_URL=server.endpoint, **KEYS) == 3
        assert SESSION in server.credentials


def test_a_profile_is_the_operators_to_choose(machine: Machine) -> None:
    (machine.root / "ran").unlink(missing_ok=True)
    (machine.root / "token").write_text(f"[profile admin]\ncredential_process = touch {machine.root / 'ran'}\n")
    chosen = {"AWS_CONFIG_FILE": str(machine.root / "token")}
    with evil() as server:
        rule = "match: 's3://*', profile: admin"
        assert asked(machine, rule, "s3://bucket/x", AWS_ENDPOINT_URL=server.endpoint, **chosen) == 1
        assert "allow_profiles" in machine.said[-1]
        assert not server.heard
        assert not (machine.root / "ran").exists()
        allowed = {**chosen, "LORA_CLI_ALLOW_PROFILES": "other,admin"}
        assert asked(machine, rule, "s3://bucket/x", AWS_ENDPOINT_URL=server.endpoint, **allowed) == 3
        assert (machine.root / "ran").exists()


def google_key(machine: Machine) -> dict[str, str]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {"type": "service_account", "client_email": "alice@acme.iam", "private_key_id": "1", "project_id": "acme",
           "private_key": pem.decode(), "token_uri": "http://127.0.0.1:9/token"}  # fmt: skip
    (machine.root / "token").write_text(json.dumps(key))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(machine.root / "token")}


@pytest.mark.parametrize("more", ["", ", anonymous: true", ", token_env: LORA_CLI_TOKEN_ACME"])
def test_google_requests_go_nowhere_where_only_a_manifest_says(machine: Machine, more: str) -> None:
    environ = {**google_key(machine), "LORA_CLI_TOKEN_ACME": SECRET}
    with evil() as server:
        rule = f"match: 'gs://*', endpoint_url: '{server.endpoint}'{more}"
        assert asked(machine, rule, "gs://bucket/x", **environ) == 1
        assert "trusted_endpoints" in machine.said[-1]
        assert not server.heard
        assert asked(machine, rule, "gs://bucket/x", LORA_CLI_TRUSTED_ENDPOINTS=server.endpoint, **environ) == 3
        assert server.heard


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (f"match: 'hf://*', endpoint_url: '{ANOTHER_MACHINE}', token_env: LORA_CLI_TOKEN_ACME", "hf://acme/x"),
        (f"match: 'https://*', endpoint_url: '{ANOTHER_MACHINE}', token_env: LORA_CLI_TOKEN_ACME", "https://acme/x"),
        (f"match: 's3://*', endpoint_url: '{ANOTHER_MACHINE}'", "s3://bucket/x"),
        ("match: 's3://*', endpoint_url: 'http://localhost.evil.example'", "s3://bucket/x"),
    ],
)
def test_credentials_do_not_go_to_another_machine_in_clear(machine: Machine, rule: str, source: str) -> None:
    environ = {**KEYS, "LORA_CLI_TOKEN_ACME": SECRET, "LORA_CLI_TRUSTED_ENDPOINTS": "https://*"}
    assert asked(machine, rule, source, **environ) == 1
    assert "not encrypted" in machine.said[-1]


@pytest.mark.parametrize(
    "key", ["trusted_endpoints: ['https://*']", "allow_token_env: [HF_TOKEN]", "allow_profiles: [a]"]
)
def test_a_manifest_cannot_give_itself_the_operators_word(machine: Machine, key: str) -> None:
    with evil() as server:
        rule = f"match: 'hf://*', endpoint_url: '{server.endpoint}', token_env: HF_TOKEN"
        assert asked(machine, rule, "hf://acme/x", policy=f"policy:\n  {key}\n") == 2
        assert "only the operator can set it" in machine.said[-1]
        assert asked(machine, rule, "hf://acme/x", policy="policy:\n  allow_private_redirects: true\n") == 2
        assert not server.heard


def test_the_hubs_own_token_stays_with_the_operators_endpoint(machine: Machine) -> None:
    with evil() as server:
        assert asked(machine, f"match: 'hf://*', endpoint_url: '{server.endpoint}'", "hf://acme/x") == 3
        assert server.heard
        assert server.credentials == []
        assert TOKEN not in str(server.heard)
