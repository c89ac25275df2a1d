"""What references meant, as far as it can be believed."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_cli.core.snapshot import Blob
from lora_cli.store import Store
from lora_cli.store.resolution_records import Record, all_records, mark_used, read_record, record_path, write_record

RECORD = Record(
    "hf://org/name@main",
    "",
    "c" * 40,
    "d" * 64,
    {"adapter_config.json": Blob("e" * 64, 7)},
    {"adapter_config.json": "git:abc"},
    "https://huggingface.co",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_what_was_noted_is_read_again(store: Store) -> None:
    write_record(store, RECORD)
    found = read_record(store, *RECORD.key)
    assert found is not None
    assert replace(found, used_s=0.0) == RECORD
    assert list(all_records(store)) == [found]


def test_another_selection_is_another_record(store: Store) -> None:
    write_record(store, RECORD)
    assert read_record(store, RECORD.ref, "+*.txt", RECORD.endpoint) is None
    assert read_record(store, "hf://org/name", "", RECORD.endpoint) is None


def test_another_endpoint_is_another_record(store: Store) -> None:
    write_record(store, RECORD)
    other = replace(RECORD, endpoint="https://mirror.example", revision="f" * 40)
    write_record(store, other)
    assert read_record(store, RECORD.ref) is None
    assert [record.revision for record in all_records(store)] == [RECORD.revision, other.revision]


def test_noting_the_same_again_only_marks_it_used(store: Store) -> None:
    write_record(store, RECORD)
    path = record_path(store, *RECORD.key)
    os.utime(path, (1, 1))
    inode = path.stat().st_ino
    write_record(store, RECORD)
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > 1


def test_a_record_that_was_removed_while_it_was_used_is_written_again(store: Store) -> None:
    write_record(store, RECORD)
    record_path(store, *RECORD.key).unlink()
    mark_used(store, RECORD)
    assert read_record(store, *RECORD.key) is not None


def test_its_file_never_holds_what_the_name_of_a_file_must_not(store: Store) -> None:
    write_record(store, replace(RECORD, ref="file:///../../etc/" + "x" * 4000))
    assert [path.parent for path in store.refs.iterdir()] == [store.refs]


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["schema", "ref", "selection", "revision", "snapshot", "endpoint", "access", "files", "x"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), VALUE), st.sampled_from([None, "sha256", "size", "identity"]), VALUE)
def test_a_record_that_somebody_broke_is_none(
    store: Store, broken: dict[str, Any], entry: str | None, value: Any
) -> None:
    write_record(store, RECORD)
    path = record_path(store, *RECORD.key)
    good = json.loads(path.read_bytes())
    body = good | broken
    if entry and isinstance(body["files"], dict) and body["files"]:
        body["files"] = {
            name: {**dict(one), entry: value} if isinstance(one, dict) else one for name, one in body["files"].items()
        }
    path.write_text(json.dumps(body))
    found = read_record(store, *RECORD.key)
    if found is not None:
        assert found.snapshot.isalnum()
        assert len(found.snapshot) == 64
        assert all(type(blob.size) is int and len(blob.sha256) == 64 for blob in found.files.values())
    path.unlink()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_bytes_that_are_no_record_are_none(store: Store, data: bytes) -> None:
    write_record(store, RECORD)
    record_path(store, *RECORD.key).write_bytes(data)
    assert read_record(store, *RECORD.key) is None
    assert list(all_records(store)) == []
