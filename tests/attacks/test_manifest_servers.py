"""Which servers a manifest may name for the operator's credentials, whatever protocol they are for."""

import pytest

from lora_cli.core.manifest_trust import endpoint_glob, is_covered
from lora_cli.documents.manifest import SourceRule
from lora_cli.errors import Refused
from lora_cli.sources.operator_trust import Trust, check_encrypted, check_endpoint
from tests.attacks.evil import ANOTHER_MACHINE, KEYS, asked, evil
from tests.planted import SECRET, Machine


def test_what_is_configured_for_a_protocol_is_not_sent_where_only_a_manifest_says(machine: Machine) -> None:
    options = {"FSSPEC_S3_KEY": "alice", "FSSPEC_S3_SECRET": SECRET}
    with evil() as server:
        place = server.endpoint.removeprefix("http://")
        assert asked(machine, "match: 'hf://*'", f"fsspec+s3://{place}/share/x", **options) == 1
        assert not server.heard
        assert "trusted_endpoints" in machine.said[-1]
    assert machine.leaks() == []


@pytest.mark.parametrize("scheme", ["az", "abfs", "abfss"])
def test_a_container_is_at_azure_whatever_a_manifest_says(machine: Machine, scheme: str) -> None:
    account = {"AZURE_STORAGE_ACCOUNT_NAME": "acme", "AZURE_STORAGE_SAS_TOKEN": f"sv=2026&sig={SECRET}"}
    with evil() as server:
        place = server.endpoint.removeprefix("http://")
        assert asked(machine, "match: 'hf://*'", f"{scheme}://container@{place}/x", **account) == 2
        assert "is not an Azure storage account" in machine.said[-1]
        for more in ("", ", anonymous: true"):
            rule = f"match: 'az://*', endpoint_url: '{server.endpoint}'{more}"
            assert asked(machine, rule, f"{scheme}://container/x", **account) == 1
            assert "trusted_endpoints" in machine.said[-1]
        assert not server.heard
        rule = f"match: 'az://*', endpoint_url: '{server.endpoint}'"
        trusted = {**account, "LORA_CLI_TRUSTED_ENDPOINTS": server.endpoint}
        assert asked(machine, rule, f"{scheme}://container/x", **trusted) in {3, 4}
        assert server.heard
    assert machine.leaks() == []


def test_a_netrc_says_nobodys_name(machine: Machine) -> None:
    (machine.root / "home").mkdir()
    (machine.root / "home" / ".netrc").write_text(f"default login alice password {SECRET}\n")
    (machine.root / "home" / ".netrc").chmod(0o600)
    with evil() as server:
        machine.run("fetch", f"{server.endpoint}/x", LORA_CLI_RETRIES="0")
        assert server.heard
        assert server.credentials == []


@pytest.mark.parametrize(
    ("globs", "address", "covered"),
    [
        (["https://minio.acme.internal"], "https://MINIO.acme.internal:443/x", True),
        (["https://minio.acme.internal"], "https://minio.acme.internal:9000", False),
        (["https://minio.acme.internal:*"], "https://minio.acme.internal:9000", True),
        (["https://*.acme.internal"], "https://a.acme.internal", True),
        (["https://*.acme.internal"], "https://acme.internal.evil.example", False),
        (["https://*.acme.internal"], "https://evil.example/.acme.internal", False),
        (["https://*.acme.internal"], "https://a.acme.internal@evil.example", False),
        (["https://*.acme.internal"], "https://evil.example\\.acme.internal", False),
        (["https://minio.acme.internal"], "http://minio.acme.internal", False),
        (["https://[::1]:9000"], "https://[0:0::1]:9000", True),
        (["https://minio"], "https://minio.", True),
        (["fsspec+smb://files.acme.internal"], "fsspec+smb://files.acme.internal", True),
        ([], "https://minio.acme.internal", False),
    ],
)
def test_a_trusted_server_is_that_one(globs: list[str], address: str, covered: bool) -> None:
    assert is_covered([endpoint_glob(glob) for glob in globs], address) is covered


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://evil.s3.amazonaws.com.evil.example",
        "https://x.execute-api.us-east-1.amazonaws.com",
        "https://x.s3-object-lambda.us-east-1.amazonaws.com",
        "http://s3.amazonaws.com",
        "https://s3.amazonaws.com:8443",
    ],
)
def test_what_only_looks_like_the_clouds_own_server_is_none(endpoint: str) -> None:
    from lora_cli.sources.aws import find_account

    with pytest.raises(Refused):
        find_account(KEYS, SourceRule(match="s3://*", endpoint_url=endpoint))
    for own in ("https://s3.amazonaws.com", "https://s3.dualstack.eu-west-1.amazonaws.com/"):
        assert find_account(KEYS, SourceRule(match="s3://*", endpoint_url=own)).found_in == "AWS_ACCESS_KEY_ID"


def test_trust_does_not_make_up_for_encryption() -> None:
    with pytest.raises(Refused, match="not encrypted"):
        check_endpoint(SourceRule(match="*", endpoint_url=ANOTHER_MACHINE), Trust(endpoints=("http://*",)), [], "keys")
    with pytest.raises(Refused, match=r"not sent to http://evil.example for a manifest.*not encrypted"):
        check_encrypted("http://127.0.0.1@evil.example")
    check_encrypted("http://127.0.0.1:9")
