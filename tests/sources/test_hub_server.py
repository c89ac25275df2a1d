"""The test Hub is a Hub: the origin's own client downloads from it, and meets the errors that it knows."""

import hashlib
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.hub_content import Content
from tests.hub_process import hub_process
from tests.hub_server import Hub

WEIGHTS = bytes(range(256)) * 5000
FILES: dict[str, Content] = {
    "adapter_config.json": {"r": 8},
    "adapter_model.safetensors": WEIGHTS,
    "checkpoint-1/trainer.json": "{}",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with Hub() as running:
        yield running


def test_the_real_client_downloads_a_snapshot_by_branch(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("acme/sql-lora", FILES)
    found = Path(snapshot_download("acme/sql-lora", endpoint=hub.endpoint, cache_dir=tmp_path, token=False))
    assert found.name == commit
    assert (found / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert (found / "checkpoint-1/trainer.json").read_text() == "{}"
    assert hub.count("GET cdn") == 1


def test_the_real_client_downloads_an_old_commit_after_the_branch_moved(hub: Hub, tmp_path: Path) -> None:
    first = hub.add("acme/sql-lora", FILES)
    hub.add("acme/sql-lora", {"adapter_model.safetensors": b"new"})
    got = hf_hub_download(
        "acme/sql-lora", "adapter_model.safetensors", revision=first, endpoint=hub.endpoint, cache_dir=tmp_path
    )
    assert Path(got).read_bytes() == WEIGHTS


def test_the_real_client_pages_through_the_tree_and_sees_digests(hub: Hub) -> None:
    hub.page_size = 2
    hub.add("acme/sql-lora", FILES)
    api = HfApi(endpoint=hub.endpoint, token=False)
    listed = {file.path: file for file in api.list_repo_tree("acme/sql-lora", recursive=True)}
    assert sorted(listed) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoint-1",
        "checkpoint-1/trainer.json",
    ]
    lfs = listed["adapter_model.safetensors"].lfs  # type: ignore[union-attr]
    assert lfs is not None
    assert lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert hub.count("/tree/") == 2


def test_the_real_client_meets_the_errors_it_knows(hub: Hub, tmp_path: Path) -> None:
    hub.add("acme/private", FILES, private=True)
    hub.add("acme/gated", FILES, gated=True)
    hub.token("hf_reader", "acme/private")

    def get(id: str, *, token: str | bool = False, revision: str = "main") -> bytes:
        name = "adapter_model.safetensors"
        return Path(
            hf_hub_download(id, name, revision=revision, token=token, endpoint=hub.endpoint, cache_dir=tmp_path)
        ).read_bytes()

    with pytest.raises(RepositoryNotFoundError):
        get("acme/missing")
    with pytest.raises(RepositoryNotFoundError):
        get("acme/private")
    with pytest.raises(GatedRepoError):
        get("acme/gated", token="hf_reader")
    with pytest.raises(RevisionNotFoundError):
        get("acme/gated", revision="nope", token=hub.token("hf_gate", "acme/gated"))
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.endpoint, token="hf_wrong").model_info("acme/gated")
    assert get("acme/private", token="hf_reader") == WEIGHTS
    assert not any(request.authorized for request in hub.requests if request.origin == "cdn")


@pytest.mark.parametrize("status", [301, 307])
def test_the_real_client_follows_a_rename(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.add("acme/old", FILES)
    hub.rename("acme/old", "acme/new", status=status)
    found = Path(snapshot_download("acme/old", endpoint=hub.endpoint, cache_dir=tmp_path, token=False))
    assert (found / "adapter_model.safetensors").read_bytes() == WEIGHTS


def test_the_real_client_resumes_after_a_cut_body(hub: Hub, tmp_path: Path) -> None:
    hub.add("acme/sql-lora", FILES)
    hub.fault("GET cdn", cut_at=1000)
    got = hf_hub_download("acme/sql-lora", "adapter_model.safetensors", endpoint=hub.endpoint, cache_dir=tmp_path)
    assert Path(got).read_bytes() == WEIGHTS
    assert hub.count("GET cdn") == 2


def test_it_runs_as_a_process_and_takes_faults_from_outside(tmp_path: Path) -> None:
    (tmp_path / "acme/sql-lora").mkdir(parents=True)
    (tmp_path / "acme/sql-lora/adapter_model.safetensors").write_bytes(WEIGHTS)
    with hub_process(tmp_path) as endpoint:
        url = f"{endpoint}/acme/sql-lora/resolve/main/adapter_model.safetensors"
        body = b'{"match": "GET cdn", "flip_at": 3}'
        with urllib.request.urlopen(f"{endpoint}/_control/faults", data=body):
            pass
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == WEIGHTS[:3] + bytes([WEIGHTS[3] ^ 0xFF]) + WEIGHTS[4:]
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == WEIGHTS
        with urllib.request.urlopen(f"{endpoint}/_control/requests") as answer:
            assert answer.read().count(b'"origin": "cdn"') == 2


def test_it_stops_at_once_while_a_client_is_stalled() -> None:
    with Hub() as hub:
        hub.add("acme/sql-lora", FILES)
        hub.fault("GET cdn", stall_at=10)
        answer = urllib.request.urlopen(f"{hub.endpoint}/acme/sql-lora/resolve/main/adapter_model.safetensors")
        assert answer.read(10) == WEIGHTS[:10]
    answer.close()
