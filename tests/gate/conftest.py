"""The origins of the thirty-three adapters, started and filled once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gate.walk import BASE, BUCKET, FOLDER, HUB, OTHER, Origins, contents, planted
from tests.hf_variables import set_variables
from tests.hub_server import Hub
from tests.making import base_config
from tests.object_servers import S3Server


@pytest.fixture(scope="session")
def filled(rclone_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origins]:
    """A bucket, a Hub with both bases, and a folder, with the adapters in them."""
    made, bucket = tmp_path_factory.mktemp("walk"), rclone_server.place()
    with Hub() as hub:
        for name in (BASE, OTHER):
            hub.add(name, {"config.json": base_config()})
        for number in BUCKET:
            files = contents(planted(made / f"s3/a{number:02}", f"a{number:02}", number))
            rclone_server.put(bucket, {f"a{number:02}/{name}": data for name, data in files.items()})
        for number in HUB:
            hub.add(f"acme/a{number}", planted(made / f"hub/a{number}", seed=number))
        for number in FOLDER:
            planted(made / f"folder/a{number:02}", f"a{number:02}", 100 + number)
        yield Origins(hub, bucket, made / "folder")


@pytest.fixture(autouse=True)
def origins(
    filled: Origins, rclone_server: S3Server, a_home_of_its_own: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Origins]:
    """The origins, with credentials for them, an empty cache, and the local ones in ``./adapters``."""
    for name, value in {**rclone_server.environ, "LORA_CLI_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    set_variables(monkeypatch, HF_ENDPOINT=filled.hub.endpoint)
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(filled.folder, tmp_path / "adapters")
    monkeypatch.chdir(tmp_path)
    yield filled
    filled.hub.faults.clear()
