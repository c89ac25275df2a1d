"""What is remembered of a reference: its endpoint, who may have it, and never a token."""

import shutil
from pathlib import Path

import pytest

from lora_cli.store.resolution_records import read_record
from tests.fetching.desk import FILES, Desk
from tests.making import write_adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def test_a_record_names_the_endpoint_and_never_a_token(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    desk.hub.token("hf_secretsecretsecret", "org/sql")
    desk.bring("org/sql")
    record = read_record(desk.store, "hf://org/sql", endpoint=desk.hub.endpoint)
    assert record is not None
    assert record.endpoint == desk.hub.endpoint
    written = b"".join(path.read_bytes() for path in desk.store.refs.iterdir())
    assert b"hf_secret" not in written


def access_of(desk: Desk, ref: str) -> str:
    record = read_record(desk.store, ref, endpoint=desk.hub.endpoint if ref.startswith("hf://") else "")
    assert record is not None
    return record.access


@pytest.mark.parametrize("access", ["public", "gated", "private"])
def test_a_record_says_who_may_have_it_as_far_as_the_hub_told(
    desk: Desk, access: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    desk.hub.add("org/own", FILES, private=access == "private", gated=access == "gated")
    desk.hub.token("hf_secret", "org/own")
    commit = desk.bring("org/own").revision
    assert desk.hub.count("/api/") == 2
    assert access_of(desk, "hf://org/own") == access_of(desk, f"hf://org/own@{commit}") == access


def test_who_may_have_a_commit_is_not_asked_and_not_forgotten(desk: Desk) -> None:
    commit = desk.hub.commit("org/sql").id
    directory = desk.bring(f"org/sql@{commit}").snapshot.directory
    assert access_of(desk, f"hf://org/sql@{commit}") == ""
    desk.bring("org/sql")
    shutil.rmtree(directory)
    assert desk.requests_of(f"org/sql@{commit}") == 1
    assert access_of(desk, f"hf://org/sql@{commit}") == "public"


def test_a_folder_is_local(desk: Desk, adapter: Path) -> None:
    desk.bring(str(adapter))
    assert access_of(desk, f"file://{adapter}") == "local"
