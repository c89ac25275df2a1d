"""The commands over a real object store: fetched, cached, locked, and offline."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.faulty_proxy import FaultyProxy
from tests.making import write_adapter
from tests.object_servers import S3Server

WEIGHTS = "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]
Put = Callable[[int], dict[str, bytes]]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("a_folder_and_a_cache_of_its_own")]


@pytest.fixture
def bucket(seaweed_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in a bucket, which serves as well."""
    for name, value in seaweed_server.environ.items():
        monkeypatch.setenv(name, value)
    return seaweed_server.place()


@pytest.fixture
def put(seaweed_server: S3Server, bucket: str, tmp_path: Path) -> Put:
    """Writes an adapter of a seed to ``sql``; its files."""

    def put(seed: int) -> dict[str, bytes]:
        write_adapter(tmp_path / "made", seed=seed, config={"layers_to_transform": [0]})
        files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
        seaweed_server.put(bucket, {f"sql/{name}": content for name, content in files.items()})
        return files

    return put


def test_offline_what_was_fetched_is_given_and_anything_else_is_not(
    seaweed_server: S3Server, bucket: str, put: Put, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(0)
    with FaultyProxy(seaweed_server.endpoint, own_host=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert main(["fetch", f"s3://{bucket}/sql"]) == 0
    first = capsys.readouterr().out
    assert main(["fetch", "--offline", f"s3://{bucket}/sql"]) == 0
    assert capsys.readouterr().out == first
    assert main(["fetch", "--offline", f"s3://{bucket}/other"]) == 3
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    assert main(["fetch", f"s3://{bucket}/sql"]) == 4
