from pathlib import Path
from typing import Any

import pytest

from lora_cli.documents.document import parse_yaml
from lora_cli.documents.policy import Policy, PolicyFile, violations
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile

ACME, PINNED = AdapterRef("hf", "acme/sql"), AdapterRef("hf", "acme/sql", revision="0e9e" * 10)
FILES = (RemoteFile("adapter_config.json", 500), RemoteFile("adapter_model.safetensors", 5000))
PICKLED = (RemoteFile("adapter_model.BIN", 1), RemoteFile("README.md", None))


@pytest.mark.parametrize(
    ("keys", "ref", "known", "broken"),
    [
        ({"allow_sources": ["hf://acme/*"], "deny_sources": ["hf://acme/sql"]}, ACME, {}, ["deny_sources"]),
        ({"deny_sources": ["hf://acme/sql"]}, AdapterRef("hf", "acme/sql", "below", "main"), {}, ["deny_sources"]),
        ({"allow_sources": ["hf://acme/*"]}, AdapterRef("hf", "other/tone"), {}, ["allow_sources"]),
        ({"allow_sources": []}, ACME, {}, ["allow_sources"]),
        ({"allow_formats": ["safetensors"], "max_bytes": 5499}, ACME, {"files": FILES}, ["max_bytes"]),
        ({}, ACME, {"files": PICKLED}, ["allow_formats"]),
        ({}, ACME, {"files": FILES}, []),
        ({"require_pinned": True}, AdapterRef("hf", "acme/sql", revision="main"), {}, ["require_pinned"]),
        ({"require_pinned": True, "require_sha256": True}, PINNED, {}, ["require_sha256"]),
        ({"require_pinned": True, "require_sha256": True}, ACME, {"sha256": "ab" * 32}, []),
    ],
)
def test_a_policy_is_violated_as_far_as_is_known(
    keys: dict[str, Any], ref: AdapterRef, known: dict[str, Any], broken: list[str]
) -> None:
    assert [one.rule for one in violations(Policy.model_validate(keys), [ref], **known)] == broken


def test_a_policy_file_is_read() -> None:
    text = """\
apiVersion: lora-cli/v1
kind: Policy
allow_sources: [acme/*, ./local, /srv/x/*, "hf://b/*"]
allow_formats: [safetensors]
max_bytes: 1GB
require_sha256: true
require_signature: [{sources: [acme/*], keys: [acme.pub]}]
"""
    found = parse_yaml(text, "p.yaml").read(PolicyFile, Path("/etc"))
    (signature,) = found.require_signature
    assert (signature.sources, signature.keys) == (("hf://acme/*",), ("/etc/acme.pub",))
    assert found.allow_sources == ("hf://acme/*", "file:///etc/local", "file:///srv/x/*", "hf://b/*")
    assert (found.allow_formats, found.max_bytes, found.require_sha256) == (("safetensors",), 10**9, True)
