import io
import os
import sys
from pathlib import Path

import pytest

from lora_cli.documents.lockfile import dump_lock
from lora_cli.documents.policy import Policy
from lora_cli.errors import MachineError, NotFound, UsageError
from lora_cli.fetching.manifest import lock_path, read_lock, read_manifest, read_policy
from lora_cli.refs.lock import Lock, LockedAdapter
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import Blob

MANIFEST = """\
apiVersion: lora-cli/v1
kind: AdapterSet
base: ./base/config.json
policy: {allow_sources: [./adapters]}
adapters:
  - {name: local, source: adapters/local}
  - {name: hub, source: acme/elsewhere}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "sets" / "adapters" / "local").mkdir(parents=True)
    file = tmp_path / "sets" / "set.yaml"
    file.write_text(MANIFEST)
    return file


def test_paths_are_relative_to_the_manifest_and_not_to_the_working_directory(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(manifest.parents[1])
    for spelled in (manifest, Path("sets/set.yaml")):
        found = read_manifest(spelled)
        assert found.file == str(spelled)
        assert found.base == AdapterRef("file", str(manifest.parent / "base/config.json"))
        assert found.policy == Policy(allow_sources=(f"file://{manifest.parent}/adapters",))
        local, hub = found.adapters
        assert local.source == AdapterRef("file", str(manifest.parent / "adapters/local"))
        assert hub.source == AdapterRef("hf", "acme/elsewhere")


def test_a_folder_that_is_not_there_is_a_path_where_its_parent_is(manifest: Path) -> None:
    manifest.write_text(MANIFEST.replace("acme/elsewhere", "adapters/gone"))
    assert read_manifest(manifest).adapters[1].source == AdapterRef("file", str(manifest.parent / "adapters/gone"))


def test_a_manifest_can_come_on_standard_input(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(manifest.parent)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MANIFEST.encode())))
    found = read_manifest(Path("-"))
    assert found.adapters[0].source == AdapterRef("file", str(manifest.parent / "adapters/local"))
    assert found.adapters[0].at == "<stdin>:6"


def test_a_manifest_can_come_through_a_pipe(manifest: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, MANIFEST.encode())
    os.close(writer)
    try:
        assert len(read_manifest(Path(f"/dev/fd/{reader}")).adapters) == 2
    finally:
        os.close(reader)


def test_a_byte_order_mark_is_no_part_of_the_first_key(manifest: Path) -> None:
    manifest.write_bytes(b"\xef\xbb\xbf" + MANIFEST.encode())
    assert len(read_manifest(manifest).adapters) == 2


def test_a_missing_file_a_folder_and_other_bytes_are_each_said(manifest: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no manifest .*none\.yaml"):
        read_manifest(manifest.with_name("none.yaml"))
    with pytest.raises(NotFound, match=r"there is no manifest .*set\.yaml/x"):
        read_manifest(manifest / "x")
    with pytest.raises(UsageError, match="the manifest is a folder"):
        read_manifest(manifest.parent)
    manifest.write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match="not UTF-8 at byte 3"):
        read_manifest(manifest)
    with pytest.raises(MachineError, match="the manifest cannot be read"):
        read_manifest(Path("x" * 5000))


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(UsageError, match="the policy is over 16777216 bytes long"):
        read_policy(Path("/dev/zero"))


def test_a_lock_stands_beside_its_manifest(manifest: Path) -> None:
    assert lock_path(manifest) == manifest.with_name("set.lock.yaml")
    assert lock_path(Path("a.b.json")) == Path("a.b.lock.yaml")
    assert lock_path(Path("set")) == Path("set.lock.yaml")
    lock = Lock((LockedAdapter("local", "adapters/local", "", {"adapter_config.json": Blob("ab" * 32, 2)}),))
    lock_path(manifest).write_text(dump_lock(lock))
    assert read_lock(lock_path(manifest)) == lock


def test_a_policy_file_is_relative_to_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("apiVersion: lora-cli/v1\nkind: Policy\nallow_sources: [./adapters/*]\n")
    assert read_policy(file) == Policy(allow_sources=(f"file://{tmp_path}/adapters/*",))
