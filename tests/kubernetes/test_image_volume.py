"""A node that mounts what ``push --as image`` writes has the adapter where the pod's engine looks for it."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.kubernetes.pods import container
from tests.making import write_adapter
from tests.oci_server import OCI_INDEX, OCI_MANIFEST, Registry

pytestmark = pytest.mark.slow


def pulled(server: Registry, reference: str, architecture: str, folder: Path) -> Path:
    """The root of an image's files, as a runtime unpacks its layers one over the other."""
    repository, _, digest = reference.removeprefix(f"oci://{server.place}/").partition("@")

    def get(path: str) -> bytes:
        return server.ask(f"{repository}/{path}", headers={"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}"})[1]

    listed: list[dict[str, Any]] = json.loads(get(f"manifests/{digest}"))["manifests"]
    wanted = {"architecture": architecture, "os": "linux"}
    (manifest,) = (json.loads(get(f"manifests/{one['digest']}")) for one in listed if one["platform"] == wanted)
    assert json.loads(get(f"blobs/{manifest['config']['digest']}"))["architecture"] == architecture
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(get(f"blobs/{layer['digest']}"))) as tar:
            tar.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_pods_engine_finds_the_adapter_in_its_volume(
    oci_registry: Registry, tmp_path: Path, architecture: str
) -> None:
    adapter = write_adapter(tmp_path / "sql")
    environ = {**os.environ, "LORA_CLI_CACHE_DIR": str(tmp_path / "cache")}
    target = f"oci://{oci_registry.place}/{oci_registry.name()}:v2"
    pushed = forked.run(["push", str(adapter), target, "--as", "image"], environ)
    assert pushed.code == 0, pushed.err
    volume = pulled(oci_registry, pushed.out.strip(), architecture, tmp_path / "volume")

    one, pod = container("vllm-image-volume", "vllm")
    name, _, path = one["args"][one["args"].index("--lora-modules") + 1].partition("=")
    (mount,) = (mount for mount in one["volumeMounts"] if path.startswith(f"{mount['mountPath']}/"))
    (source,) = (volume["image"] for volume in pod["volumes"] if volume["name"] == mount["name"])
    found = volume / Path(path).relative_to(mount["mountPath"])

    assert {file.name: file.read_bytes() for file in found.iterdir()} == {
        file.name: file.read_bytes() for file in adapter.iterdir()
    }
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in found.iterdir()), "the engine runs as nobody"
    assert source["reference"].rpartition("/")[2].partition("@sha256:")[0] == name
