"""The test Hub is a Hub: the origin's own client reads its listings, and meets the errors that it knows."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.hub_content import Content
from tests.hub_server import Hub

WEIGHTS = bytes(range(256)) * 5000
FILES: dict[str, Content] = {"adapter_config.json": {"r": 8}, "adapter_model.safetensors": WEIGHTS, "run/a.json": "{}"}


def test_the_real_client_pages_through_the_tree_and_downloads_a_renamed_repository(hub: Hub) -> None:
    hub.page_size = 2
    commit = hub.add("acme/sql-lora", FILES)
    hub.rename("acme/sql-lora", "acme/new")
    api = HfApi(endpoint=hub.endpoint, token=False)
    listed: dict[str, Any] = {file.path: file for file in api.list_repo_tree("acme/sql-lora", recursive=True)}
    assert sorted(listed) == sorted([*FILES, "run"])
    assert listed["adapter_model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert hub.count("/new/tree/") == 2
    found = Path(snapshot_download("acme/sql-lora", endpoint=hub.endpoint, token=False))
    assert found.name == commit
    assert (found / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert hub.count("GET cdn") == 1


def test_the_real_client_meets_the_errors_it_knows(hub: Hub) -> None:
    hub.add("acme/private", FILES, private=True)
    hub.add("acme/gated", FILES, gated=True)
    hub.token("hf_reader", "acme/private")

    def get(id: str, *, token: str | bool = False, revision: str = "main") -> bytes:
        name = "adapter_model.safetensors"
        return Path(hf_hub_download(id, name, revision=revision, token=token, endpoint=hub.endpoint)).read_bytes()

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
