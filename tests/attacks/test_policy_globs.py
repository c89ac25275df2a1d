"""References that are written so that a policy's globs mean something else."""

from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.documents.document import parse_yaml
from lora_cli.documents.policy import PolicyFile, violations
from lora_cli.refs.reference import AdapterRef, matches, parse
from tests.hub_server import Hub
from tests.making import write_adapter

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"


@pytest.mark.parametrize(
    ("glob", "ref", "covered"),
    [
        ("hf://evil/*@v1", AdapterRef("hf", "evil/x", revision="main@v1"), False),
        ("hf://evil/*@v1", AdapterRef("hf", "evil/x", revision="v1"), True),
        ("hf://evil/*@v1", AdapterRef("hf", "evil/x", revision="V1"), False),
        ("hf://evil/*@*", AdapterRef("hf", "evil/x"), False),
        ("hf://evil/*@v*", AdapterRef("hf", "evil/x", revision="v1@main"), True),
        ("hf://*@v1", AdapterRef("hf", "evil/x", "a/b", "w@v1"), False),
        ("hf://evil/x@v1", AdapterRef("hf", "evil/x", "below", "v1"), True),
        ("oci://r/*@sha256:a*", AdapterRef("oci", "r/x", revision="sha256:" + "b" * 64), False),
        ("oci://r/x", AdapterRef("oci", "r/x:v1"), True),
        ("oci://r/x:latest", AdapterRef("oci", "r/x"), True),
        ("oci://r/x:v*", AdapterRef("oci", "r/x:v1", revision="sha256:" + "b" * 64), False),
        ("oci://r/x", AdapterRef("oci", "r/xy:v1"), False),
        ("https://h/*@v1", AdapterRef("https", "h/x@v1"), True),
    ],
)
def test_a_revision_is_compared_with_what_stands_behind_the_at(glob: str, ref: AdapterRef, covered: bool) -> None:
    assert matches(glob, ref) is covered


ADDRESSES = (
    *("acme/x", "acme/x/resolve/main", "ACME/x/tree/main", "acme%2fx/resolve/main", "acme%2Fx", "acme%252fx"),
    *("acme/x/raw/main", "api/models/acme/x", "api/resolve-cache/models/acme/x/main", "%61cme/x/blob/main"),
    *("acme%2fx/raw/main", "acme%5cx/resolve/main", "acme//x", "acme/x/resolve/main/adapter_config.json"),
)


def test_no_other_way_to_write_a_denied_repository_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"{HEAD}deny_sources: ['hf://acme/*']\n")
    with Hub() as hub:
        hub.add("acme/x", write_adapter(tmp_path / "served"))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        for path in ADDRESSES:
            for command in ("fetch", "validate"):
                assert main([command, f"{hub.endpoint}/{path}", "--policy", str(policy)]) in {1, 2}, path
        assert hub.count() == 0


@pytest.mark.parametrize("glob", ["GHCR.io", "ghcr.io.", "ghcr.io:443"])
def test_a_registry_is_denied_and_allowed_however_it_is_written(glob: str) -> None:
    known = parse("oci://ghcr.io/acme/x", is_path=lambda _: False)
    denied, allowed = (
        parse_yaml(f"{HEAD}{key}: ['oci://{glob}/acme/*']\n", "p.yaml").read(PolicyFile)
        for key in ("deny_sources", "allow_sources")
    )
    assert [one.rule for one in violations(denied, [known])] == ["deny_sources"]
    assert not violations(allowed, [known])
