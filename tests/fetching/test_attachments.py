"""Signatures and verdicts that are attached to an artifact in a registry, as a policy requires them."""

import json
import os
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.core.adapter_files import SIGNATURE_TYPE, VERDICT_TYPE
from lora_cli.core.reference import parse
from lora_cli.pushing.artifact import Part
from lora_cli.pushing.upload import attach, registry_client
from lora_cli.settings import Settings
from tests.making import write_adapter
from tests.oci_server import OCI_INDEX, OCI_MANIFEST, Registry
from tests.signing.pki import key_pair

HEAD = "apiVersion: lora-cli/v1\nkind: Policy\n"
KEYS = '{"keys": ["ci.pub"]}'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter in ``sql``, and two pairs of keys."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "sql")
    key_pair(tmp_path, "ci")
    key_pair(tmp_path, "other")


class Pushed:
    """The files of ``sql``, as they are now, in a repository of their own."""

    def __init__(self, server: Registry) -> None:
        name = server.name()
        digest = server.push(f"{name}:v1", {path.name: path.read_bytes() for path in Path("sql").iterdir()})
        self.tag, self.ref = f"oci://{server.place}/{name}:v1", f"oci://{server.place}/{name}@{digest}"
        self._server, self._list = server, f"{name}:{digest.replace(':', '-')}"
        self._subject = Part(OCI_MANIFEST, digest, 1, lambda: iter(()))

    def attach(self, media_type: str, data: bytes) -> None:
        client = registry_client(parse(self.tag, is_path=lambda _: False), Settings(Path("cache")))
        attach(client, self._subject, media_type, data, "it")

    def detach(self) -> None:
        """Empties the list of what refers to it, in the registry's tag for it."""
        self._server.manifest(self._list, {"manifests": []}, OCI_INDEX)


def require(key: str, **entry: object) -> None:
    Path("policy.yaml").write_text(f"{HEAD}{key}: [{json.dumps({'keys': ['ci.pub'], **entry})}]\n")


def fetch(ref: str, *more: str) -> int:
    return main([*more, "fetch", ref, "--policy", "policy.yaml"])


def signature_by(key: str) -> bytes:
    assert main(["sign", "sql", "--key", f"{key}.key", "--output", f"{key}.sig"]) == 0
    return Path(f"{key}.sig").read_bytes()


def verdict_by(key: str, *more: str) -> bytes:
    main(["validate", "./sql", "--no-base", "--attest", f"{key}.jsonl", "--key", f"{key}.key", *more])
    return Path(f"{key}.jsonl").read_bytes()


def test_an_attached_signature_counts_as_one_among_the_files(
    oci_registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    require("require_signature")
    pushed, ours, others = Pushed(oci_registry), signature_by("ci"), signature_by("other")
    assert fetch(pushed.tag) == 1
    assert "it has no model.sig" in capsys.readouterr().err
    pushed.attach(SIGNATURE_TYPE, others)
    assert fetch(pushed.tag) == 1
    assert "an attached signature: the key ci.pub did not make it" in capsys.readouterr().err
    pushed.attach(SIGNATURE_TYPE, ours)
    for ref in (pushed.tag, pushed.ref, pushed.tag):
        assert fetch(ref) == 0
    assert not (Path(capsys.readouterr().out.splitlines()[-1]) / "model.sig").exists()


def test_a_signature_of_the_adapters_own_by_somebody_else_leaves_room_for_an_attached_one(
    oci_registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    require("require_signature")
    ours = signature_by("ci")
    Path("sql/model.sig").write_bytes(signature_by("other"))
    pushed = Pushed(oci_registry)
    assert fetch(pushed.tag) == 1
    assert "model.sig: the key ci.pub did not make it" in capsys.readouterr().err
    pushed.attach(SIGNATURE_TYPE, ours)
    assert fetch(pushed.tag) == 0


def test_an_attached_signature_of_other_files_does_not_count(
    oci_registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    require("require_signature")
    ours = signature_by("ci")
    write_adapter(Path("sql"), seed=1)
    pushed = Pushed(oci_registry)
    pushed.attach(SIGNATURE_TYPE, ours)
    assert fetch(pushed.tag) == 1
    assert "changed since: adapter_model.safetensors" in capsys.readouterr().err


def test_an_attached_verdict_counts_as_one_in_a_file_of_the_policy(
    oci_registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    require("require_verdict")
    pushed, ours, others = Pushed(oci_registry), verdict_by("ci"), verdict_by("other")
    pushed.attach(VERDICT_TYPE, others)
    assert fetch(pushed.ref) == 1
    assert "there is no verdict on the snapshot" in capsys.readouterr().err
    pushed.attach(VERDICT_TYPE, ours)
    assert fetch(pushed.ref) == fetch(pushed.tag) == 0
    require("require_verdict", attestations=["other.jsonl"])
    assert fetch(pushed.ref) == 0
    require("require_verdict", max_age="0.001s")
    assert fetch(pushed.ref) == 1
    assert "max_age" in capsys.readouterr().err


def test_what_was_attached_at_the_last_fetch_counts_offline(
    oci_registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("policy.yaml").write_text(f"{HEAD}require_signature: [{KEYS}]\nrequire_verdict: [{KEYS}]\n")
    pushed = Pushed(oci_registry)
    pushed.attach(SIGNATURE_TYPE, signature_by("ci"))
    pushed.attach(VERDICT_TYPE, verdict_by("ci"))
    assert main(["fetch", pushed.tag]) == 0
    assert fetch(pushed.tag, "--offline") == 1  # without a policy nothing attached was read
    assert fetch(pushed.tag) == fetch(pushed.tag, "--offline") == fetch(pushed.ref, "--offline") == 0
    capsys.readouterr()
    assert main(["cache", "show", pushed.tag, "--policy", "policy.yaml"]) == 0
    assert main(["--offline", "inspect", pushed.tag, "--policy", "policy.yaml"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("ci.pub") >= 4
    assert "refused" not in shown
    for kept in Path("cache/attached").iterdir():
        kept.write_text(kept.read_text().replace("payload", "nothing"))
    assert fetch(pushed.tag, "--offline") == 1
    assert "policy require_signature: an attached signature: " in capsys.readouterr().err
    for kept in Path("cache/attached").iterdir():
        kept.write_text('{"' + SIGNATURE_TYPE + '": 5}')
    assert fetch(pushed.tag, "--offline") == 1
    assert "it has no model.sig" in capsys.readouterr().err


def test_what_is_no_longer_attached_no_longer_counts_offline(oci_registry: Registry) -> None:
    require("require_signature")
    pushed = Pushed(oci_registry)
    pushed.attach(SIGNATURE_TYPE, signature_by("ci"))
    assert fetch(pushed.ref) == 0
    pushed.detach()
    assert fetch(pushed.ref) == fetch(pushed.ref, "--offline") == 1


def test_documents_go_with_the_last_reference_of_their_artifact(oci_registry: Registry) -> None:
    require("require_signature")
    pushed = Pushed(oci_registry)
    pushed.attach(SIGNATURE_TYPE, signature_by("ci"))
    assert fetch(pushed.tag) == 0
    (kept,) = Path("cache/attached").iterdir()
    os.utime(kept, (1, 1))
    assert main(["cache", "gc"]) == 0
    assert kept.exists()
    assert main(["cache", "rm", pushed.tag]) == main(["cache", "gc"]) == 0
    assert not kept.exists()


def test_a_flood_of_verdicts_is_not_verified(oci_registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    require("require_verdict", engine="vllm")
    pushed = Pushed(oci_registry)
    for key in ("ci", "other"):
        pushed.attach(VERDICT_TYPE, verdict_by(key) * 600)
    assert fetch(pushed.ref) == 1
    assert "over 1000 verdicts are attached" in capsys.readouterr().err


def test_what_push_attaches_is_what_a_policy_requires(oci_registry: Registry) -> None:
    require("require_verdict")
    verdict_by("ci")
    target = f"oci://{oci_registry.place}/{oci_registry.name()}:v1"
    assert main(["push", "./sql", target, "--verdict", "ci.jsonl", "--as", "image"]) == 0
    assert fetch(target) == 0
