"""Half an adapter was fetched from another server: for its own server it is not gone on with."""

import json
from functools import partial
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.answering import Asked, Reply, answering
from tests.making import lora_config
from tests.sources.buckets import LISTED

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SIZE = 3_000_000


def bucket(fill: bytes, sent: int, request: Asked) -> Reply:
    """A bucket with one adapter, whose weights break off after ``sent`` bytes."""
    content = {CONFIG: json.dumps(lora_config(["q_proj"])).encode(), WEIGHTS: fill * SIZE}
    if "list-type" in request.path:
        entry = f"<Contents><Key>pirate/{{}}</Key>{LISTED}<Size>{{}}</Size></Contents>"
        entries = "".join(entry.format(path, len(data)) for path, data in content.items())
        return 200, f"<ListBucketResult>{entries}</ListBucketResult>".encode(), {}
    data = content[request.path.rpartition("/")[2]]
    first, _, last = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
    start, stop = int(first), min(int(last or SIZE) + 1, len(data))
    if start >= sent:
        return 500, b"", {}
    request.close_connection = stop > sent
    span = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}", "Content-Length": str(stop - start)}
    return 206, data[start : min(stop, sent)], {"ETag": '"e"', **span}


def test_half_a_download_of_another_server_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """S3 lists no digest: nothing else tells whose first bytes they are."""
    variables = {"LORA_CLI_RETRIES": "0", "LORA_CLI_TIMEOUT": "5s", "LORA_CLI_CACHE_DIR": str(tmp_path / "cache")}
    for name, value in {**variables, "AWS_SKIP_SIGNATURE": "true"}.items():
        monkeypatch.setenv(name, value)
    with answering(partial(bucket, b"h", SIZE)) as honest, answering(partial(bucket, b"e", 2_000_000)) as evil:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", evil)
        assert main(["fetch", "s3://acme/pirate"]) == 4
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", honest)
        capsys.readouterr()
        assert main(["fetch", "s3://acme/pirate"]) == 0
        assert Path(capsys.readouterr().out.strip(), WEIGHTS).read_bytes() == b"h" * SIZE
