"""Pulp's registry alone: blobs of a private repository are on another port, at addresses that are good for a while."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from lora_cli.core.reference import AdapterRef
from lora_cli.errors import AccessDenied
from lora_cli.settings import Settings
from lora_cli.sources.oci import OciSource
from tests.oci_server import BASIC, Registry, log_in
from tests.processes import wait

pytestmark = pytest.mark.registries

WEIGHTS = os.urandom(200_000)
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS}


def make_private(server: Registry, repository: str) -> None:
    def call(path: str, change: bytes | None = None) -> Any:
        headers = {"Authorization": f"Basic {BASIC}", "Content-Type": "application/json"}
        request = Request(f"http://{server.place}{path}", change, headers, method="PATCH" if change else "GET")
        with urlopen(request) as answer:
            return json.load(answer)

    found = call(f"/pulp/api/v3/distributions/container/container/?name={repository}")["results"][0]["pulp_href"]
    call(found, b'{"private": true}')
    wait(lambda: bool(call(found)["private"]), repository)


def test_a_private_repository_is_read_by_range_by_its_user_alone(pulp_registry: Registry, tmp_path: Path) -> None:
    settings, name = Settings(tmp_path / "cache", timeout_s=20, retries=0, keep_free=0), pulp_registry.name()
    pulp_registry.push(f"{name}:v1", FILES)
    ref = AdapterRef("oci", f"{pulp_registry.place}/{name}:v1")
    assert OciSource(settings).resolve(ref).files
    make_private(pulp_registry, name)
    with pytest.raises(AccessDenied, match="401"):
        OciSource(settings).resolve(ref)
    log_in(Path(os.environ["DOCKER_CONFIG"]), pulp_registry.place, username="alice", password="wrong-password")
    with pytest.raises(AccessDenied, match="403"):
        OciSource(settings).resolve(ref)
    log_in(Path(os.environ["DOCKER_CONFIG"]), pulp_registry.place)
    source = OciSource(settings)
    revision = source.resolve(ref)
    assert {file.path: b"".join(source.read(revision, file, 0, None)) for file in revision.files} == FILES
    file = revision.file("adapter_model.safetensors")
    assert file is not None
    assert b"".join(source.read(revision, file, 8, 1000)) == WEIGHTS[8:1000]
    assert pulp_registry.store is not None
    log = pulp_registry.store / "content.log"
    wait(lambda: f"{name}/blobs/{file.locator}" in log.read_text() and '" 206 ' in log.read_text(), log)
