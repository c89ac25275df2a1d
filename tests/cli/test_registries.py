"""Commands over an adapter in an OCI registry: lock, drift and policy."""

import json
from pathlib import Path

import pytest

from tests.cli.locked_sets import LOCK, forget_the_cache, set_of
from tests.cli.running import Run
from tests.making import write_adapter
from tests.oci_server import Registry


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def sql(tmp_path: Path) -> dict[str, bytes]:
    return files_of(write_adapter(tmp_path / "sql"))


def test_a_lock_pins_the_digest_and_a_moved_tag_is_drift(
    oci_registry: Registry, sql: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    name = oci_registry.name()
    first = oci_registry.push(f"{name}:v1", sql)
    set_of(f"sql=oci://{oci_registry.place}/{name}:v1")
    run("fetch -f set.yaml")
    assert first in LOCK.read_text()
    run("fetch -f set.yaml --check")
    second = oci_registry.push(f"{name}:v1", files_of(write_adapter(tmp_path / "moved", seed=1)))
    assert f"v1 moved from {first[:19]} to {second[:19]}" in run("fetch -f set.yaml --check", 1).text
    with monkeypatch.context() as elsewhere:
        forget_the_cache(elsewhere)
        assert files_of(Path(run("fetch -f set.yaml --locked").out.strip())) == sql
    run("fetch -f set.yaml --upgrade")
    assert second in LOCK.read_text()
    LOCK.write_text(LOCK.read_text().replace(second, "0" * 40))
    assert "which is not a commit or digest" in run("fetch -f set.yaml --locked", 2).err


@pytest.mark.parametrize("tag", [":v1", ""])
def test_what_a_policy_says_of_a_tag_holds_for_what_is_cached_or_locked(
    oci_registry: Registry, sql: dict[str, bytes], tag: str, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    name = oci_registry.name()
    digest = oci_registry.push(f"{name}{tag or ':latest'}", sql)
    ref = f"oci://{oci_registry.place}/{name}"
    set_of(f"sql={ref}{tag}")
    run("fetch -f set.yaml")
    tagged, pinned = f"{ref}{tag or ':latest'}", f"{ref}@{digest}"
    cases: list[tuple[str, object, int]] = [
        ("allow_sources", [tagged], 0),
        ("allow_sources", [f"{ref}:v2"], 1),
        ("deny_sources", [tagged], 1),
        ("deny_sources", [ref], 1),
        ("require_signature", [{"sources": [tagged], "keys": ["a.pub"]}], 1),
    ]
    Path("a.pub").write_text("a key")
    for key, value, code in cases:
        Path("policy.yaml").write_text(json.dumps({"apiVersion": "lora-cli/v1", "kind": "Policy", key: value}))
        for cache in ("cache", f"without-{key}-{code}"):
            monkeypatch.setenv("LORA_CLI_CACHE_DIR", cache)
            for what in (f"{ref}{tag}", "-f set.yaml"):
                run(f"fetch {what} --policy policy.yaml", code)
    Path("policy.yaml").write_text("apiVersion: lora-cli/v1\nkind: Policy\nrequire_pinned: true\n")
    run(f"fetch {ref}{tag} --policy policy.yaml", 1)
    run(f"fetch {pinned} --policy policy.yaml")
    run(f"--offline fetch {ref}:other@{digest}")  # whatever tag is beside it
