"""Commands over an adapter in an OCI registry: lock, drift, policy, header-only validation."""

import json
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.faulty_proxy import FaultyProxy
from tests.making import write_adapter
from tests.oci_server import Registry

WIDE = {f"model.layers.{layer}.mlp.up_proj": (64, 4096) for layer in range(16)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "sql")


def ran(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(word) for word in argv])
    return (code, *capsys.readouterr())


def test_a_lock_pins_the_digest_and_a_moved_tag_is_drift(
    oci_registry: Registry, sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = oci_registry.name()
    first = oci_registry.push(f"{name}:v1", files_of(sql))
    manifest, cache = tmp_path / "set.yaml", ("--cache-dir", tmp_path / "cache")
    adapter = {"name": "sql", "source": f"oci://{oci_registry.place}/{name}:v1"}
    manifest.write_text(json.dumps({"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": [adapter]}))
    assert ran(capsys, "fetch", "-f", manifest, *cache)[0] == 0
    assert first in (tmp_path / "set.lock.yaml").read_text()
    assert ran(capsys, "fetch", "-f", manifest, "--check", *cache)[0] == 0
    moved = write_adapter(tmp_path / "moved", seed=1)
    second = oci_registry.push(f"{name}:v1", files_of(moved))
    code, out, err = ran(capsys, "fetch", "-f", manifest, "--check", *cache)
    assert code == 1
    assert f"v1 moved from {first[:19]} to {second[:19]}" in out + err
    code, out, _ = ran(capsys, "fetch", "-f", manifest, "--locked", "--cache-dir", tmp_path / "another")
    assert code == 0
    assert files_of(Path(out.strip())) == files_of(sql)
    assert ran(capsys, "fetch", "-f", manifest, "--upgrade", *cache)[0] == 0
    assert second in (tmp_path / "set.lock.yaml").read_text()
    broken = (tmp_path / "set.lock.yaml").read_text().replace(second, "0" * 40)
    (tmp_path / "set.lock.yaml").write_text(broken)
    code, _, err = ran(capsys, "fetch", "-f", manifest, "--locked", *cache)
    assert (code, "which is not a commit or digest" in err) == (2, True)


def test_what_a_tag_named_is_cached_by_its_digest_whatever_tag_is_beside_it(
    oci_registry: Registry, sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, cache = oci_registry.name(), ("--cache-dir", tmp_path / "cache")
    digest = oci_registry.push(f"{name}:v1", files_of(sql))
    ref = f"oci://{oci_registry.place}/{name}"
    assert ran(capsys, "fetch", f"{ref}:v1", *cache)[0] == 0
    for pinned in (f"{ref}@{digest}", f"{ref}:v1@{digest}", f"{ref}:other@{digest}"):
        assert ran(capsys, "--offline", "fetch", pinned, *cache)[0] == 0
        assert ran(capsys, "cache", "show", pinned, *cache)[0] == 0
    assert ran(capsys, "--offline", "fetch", f"{ref}:other", *cache)[0] == 3


def test_a_policy_speaks_of_registries(
    oci_registry: Registry, sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = oci_registry.name()
    digest = oci_registry.push(f"{name}:v1", files_of(sql))
    ref, policy = f"oci://{oci_registry.place}/{name}", tmp_path / "policy.yaml"

    def code(rules: dict[str, object], *refs: str) -> int:
        policy.write_text(json.dumps({"apiVersion": "lora-cli/v1", "kind": "Policy", **rules}))
        return ran(capsys, "fetch", *refs, "--policy", policy, "--cache-dir", tmp_path / "cache")[0]

    assert code({"allow_sources": [f"{ref}"]}, f"{ref}:v1") == 0
    assert code({"deny_sources": [f"{ref}"]}, f"{ref}:v1") == 1
    assert code({"require_pinned": True}, f"{ref}:v1") == 1
    assert code({"require_pinned": True}, f"{ref}@{digest}") == 0
    assert code({"allow_sources": [f"{ref}@{digest}"]}, f"{ref}@{digest}") == 0
    assert code({"allow_sources": [f"{ref}@sha256:0*"]}, f"{ref}@{digest}") == (0 if digest[7] == "0" else 1)


def test_a_policy_speaks_of_the_folder_that_is_picked(
    oci_registry: Registry, sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = oci_registry.name()
    digest = oci_registry.push(f"{name}:v1", {f"run/{path}": data for path, data in files_of(sql).items()})
    policy = tmp_path / "policy.yaml"
    with FaultyProxy(oci_registry.place) as proxy:
        ref = f"oci://{proxy.place}/{name}"

        def codes(rules: dict[str, object], cache: Path) -> list[int]:
            """Of the tag and of the digest."""
            policy.write_text(json.dumps({"apiVersion": "lora-cli/v1", "kind": "Policy", **rules}))
            given = ("--policy", policy, "--cache-dir", cache)
            return [ran(capsys, "fetch", one, *given)[0] for one in (f"{ref}:v1", f"{ref}@{digest}")]

        denied: dict[str, object] = {"deny_sources": [f"{ref}//run"]}
        assert codes(denied, tmp_path / "empty") == [1, 1]
        assert not [asked for asked in proxy.asked if "/blobs/" in asked.line]
        assert codes({"deny_sources": [f"{ref}//other"]}, tmp_path / "cache") == [0, 0]
        assert codes(denied, tmp_path / "cache") == [1, 1]
        assert codes({"allow_sources": [ref]}, tmp_path / "cache") == [0, 0]


@pytest.mark.parametrize("tag", [":v1", ""])
def test_what_a_policy_says_of_a_tag_holds_for_what_is_cached_or_locked(
    oci_registry: Registry, sql: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    name = oci_registry.name()
    digest = oci_registry.push(f"{name}{tag or ':latest'}", files_of(sql))
    ref, policy, manifest = f"oci://{oci_registry.place}/{name}", tmp_path / "policy.yaml", tmp_path / "set.yaml"
    adapter = {"name": "sql", "source": f"{ref}{tag}"}
    manifest.write_text(json.dumps({"apiVersion": "lora-cli/v1", "kind": "AdapterSet", "adapters": [adapter]}))
    cache = ("--cache-dir", tmp_path / "cache")
    assert ran(capsys, "fetch", "-f", manifest, *cache)[0] == 0
    (tmp_path / "a.pub").write_text("a key")

    def codes(rules: dict[str, object]) -> set[int]:
        """Of the cached tag, of its lock, and of both in an empty cache."""
        policy.write_text(json.dumps({"apiVersion": "lora-cli/v1", "kind": "Policy", **rules}))
        wanted = ((f"{ref}{tag}",), ("-f", manifest))
        caches = (cache, ("--cache-dir", tmp_path / f"cache-{len(list(tmp_path.iterdir()))}"))
        return {ran(capsys, "fetch", *what, "--policy", policy, *where)[0] for where in caches for what in wanted}

    tagged = f"{ref}{tag or ':latest'}"
    assert codes({"allow_sources": [tagged]}) == {0}
    assert codes({"allow_sources": [f"{ref}:v2"]}) == {1}
    assert codes({"deny_sources": [tagged]}) == {1}
    assert codes({"require_signature": [{"sources": [tagged], "keys": ["a.pub"]}]}) == {1}
    # In an empty cache the digest of a tag is not known before it is resolved, and then only of a lock.
    assert 1 in codes({"deny_sources": [f"{ref}@{digest}"]})
