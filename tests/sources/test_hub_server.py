"""The test Hub is a Hub: the origin's own client downloads from it, and meets the errors that it knows."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.hub_content import Content
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


def test_the_real_client_downloads_a_snapshot_by_branch_of_a_renamed_repository(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("acme/sql-lora", FILES)
    hub.rename("acme/sql-lora", "acme/new")
    found = Path(snapshot_download("acme/sql-lora", endpoint=hub.endpoint, cache_dir=tmp_path, token=False))
    assert found.name == commit
    assert (found / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert (found / "checkpoint-1/trainer.json").read_text() == "{}"
    assert hub.count("GET cdn") == 1


def test_the_real_client_pages_through_the_tree_and_sees_digests(hub: Hub) -> None:
    hub.page_size = 2
    hub.add("acme/sql-lora", FILES)
    api = HfApi(endpoint=hub.endpoint, token=False)
    listed = {file.path: file for file in api.list_repo_tree("acme/sql-lora", recursive=True)}
    assert sorted(listed) == sorted([*FILES, "checkpoint-1"])
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
