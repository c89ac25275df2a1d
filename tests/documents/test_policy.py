from pathlib import Path

from lora_cli.documents.document import parse_yaml
from lora_cli.documents.policy import Policy, PolicyFile, violations
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile

COMMIT, SHA256 = "0e9e" * 10, "ab" * 32
ACME = AdapterRef("hf", "acme/sql")
FILES = (RemoteFile("adapter_config.json", 500), RemoteFile("adapter_model.safetensors", 5000))


def rules(policy: Policy, ref: AdapterRef = ACME, **known: object) -> list[str]:
    return [violation.rule for violation in violations(policy, [ref], **known)]  # type: ignore[arg-type]


def test_deny_wins_over_allow_and_says_which_glob() -> None:
    policy = Policy(allow_sources=("hf://acme/*",), deny_sources=("hf://acme/sql",))
    said = [str(one) for one in violations(policy, [ACME])]
    assert said == ["policy deny_sources: hf://acme/sql matches hf://acme/sql"]
    assert rules(policy, AdapterRef("hf", "acme/sql", "below", "main")) == ["deny_sources"]
    assert rules(policy, AdapterRef("hf", "acme/tone")) == []
    assert rules(policy, AdapterRef("hf", "other/tone")) == ["allow_sources"]
    assert rules(Policy(allow_sources=()), ACME) == ["allow_sources"]
    assert rules(Policy(), sha256=None, files=FILES) == []


def test_formats_and_sizes_are_judged_by_the_files() -> None:
    policy = Policy(allow_formats=("safetensors",), max_bytes=5499)
    pickled = [RemoteFile("adapter_model.BIN", 1), RemoteFile("README.md", None)]
    assert rules(policy, files=FILES) == ["max_bytes"]
    assert rules(policy, files=pickled) == ["allow_formats"]
    assert rules(Policy(), files=pickled) == ["allow_formats"]
    assert rules(Policy(allow_formats=("safetensors",)), files=FILES) == []


def test_pins_are_a_commit_or_a_digest_known_before() -> None:
    policy = Policy(require_pinned=True)
    hints = [next(iter(violations(policy, [ref]))).hint for ref in (ACME, AdapterRef("file", "/srv/sql"))]
    assert "add @COMMIT" in hints[0]
    assert "lora-cli fetch file:///srv/sql --format json prints it" in hints[1]
    assert rules(policy, AdapterRef("hf", "acme/sql", revision="main")) == ["require_pinned"]
    assert rules(policy, AdapterRef("hf", "acme/sql", revision=COMMIT)) == []
    assert rules(policy, ACME, sha256=SHA256) == []
    assert rules(Policy(require_sha256=True), AdapterRef("hf", "acme/sql", revision=COMMIT)) == ["require_sha256"]
    assert rules(Policy(require_sha256=True), ACME, sha256=SHA256) == []


HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"


def test_a_policy_file_is_read() -> None:
    text = """\
allow_sources: [acme/*, ./local, /srv/x/*, "hf://b/*"]
deny_sources: []
allow_formats: [safetensors]
max_bytes: 1GB
require_pinned: false
require_sha256: true
require_signature: [{sources: [acme/*], keys: [acme.pub]}]
"""
    found = parse_yaml(HEAD + text, "p.yaml").read(PolicyFile, Path("/etc"))
    (signature,) = found.require_signature
    assert (signature.sources, signature.keys) == (("hf://acme/*",), ("/etc/acme.pub",))
    assert found.allow_sources == ("hf://acme/*", "file:///etc/local", "file:///srv/x/*", "hf://b/*")
    assert (found.allow_formats, found.max_bytes, found.require_sha256) == (("safetensors",), 10**9, True)
