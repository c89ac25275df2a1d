"""A well-known reference was fetched from another server: for its own server it means what it did."""

import json
from functools import partial
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.answering import Asked, Reply, answering
from tests.hub_content import Commit, entry
from tests.hub_server import Hub
from tests.making import lora_config, lora_tensors, safetensors_bytes
from tests.sources.buckets import LISTED

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = {"model.layers.0.self_attn.q_proj": (8, 8)}
HONEST, EVIL = (
    {
        CONFIG: json.dumps(lora_config(["q_proj"])).encode(),
        WEIGHTS: safetensors_bytes(lora_tensors(MODULES, r=4, seed=seed)),
    }
    for seed in (1, 2)
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("LORA_CLI_TIMEOUT", "5s")
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def handed_out(capsys: Capture, *argv: str) -> bytes:
    """The weights that ``fetch`` hands out."""
    capsys.readouterr()
    assert main(["fetch", *argv]) == 0
    return Path(capsys.readouterr().out.strip(), WEIGHTS).read_bytes()


def test_a_reference_means_what_its_own_server_says_and_a_lock_its_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("set.yaml").write_text(
        "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: pirate, source: 'hf://acme/pirate'}]\n"
    )
    with Hub() as honest, Hub() as evil:
        commit = honest.add("acme/pirate", HONEST)
        evil.add("acme/pirate", EVIL)
        repo = evil.repos["acme/pirate"]
        repo.commits = {commit: Commit(commit, {path: entry(path, data) for path, data in EVIL.items()})}
        repo.branches = {"main": commit}
        ref, pinned = "hf://acme/pirate", f"hf://acme/pirate@{commit}"
        monkeypatch.setenv("HF_ENDPOINT", honest.endpoint)
        assert main(["fetch", "-f", "set.yaml", "--cache-dir", "of-the-lock"]) == 0
        monkeypatch.setenv("HF_ENDPOINT", evil.endpoint)
        for one in (ref, pinned):
            assert handed_out(capsys, one) == EVIL[WEIGHTS]
        monkeypatch.setenv("HF_ENDPOINT", honest.endpoint)
        for one in (ref, pinned):
            assert main(["fetch", one, "--offline"]) == 3
        for argv in (["-f", "set.yaml", "--locked"], ["-f", "set.yaml"], [pinned], [ref], [ref, "--offline"]):
            assert handed_out(capsys, *argv) == HONEST[WEIGHTS]


def test_half_a_download_of_another_server_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """S3 lists no digest: nothing else tells whose first bytes they are."""
    size = 3_000_000

    def bucket(fill: bytes, sent: int, request: Asked) -> Reply:
        content = {CONFIG: HONEST[CONFIG], WEIGHTS: fill * size}
        if "list-type" in request.path:
            entry = f"<Contents><Key>pirate/{{}}</Key>{LISTED}<Size>{{}}</Size></Contents>"
            entries = "".join(entry.format(path, len(data)) for path, data in content.items())
            return 200, f"<ListBucketResult>{entries}</ListBucketResult>".encode(), {}
        data = content[request.path.rpartition("/")[2]]
        first, _, last = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or size) + 1, len(data))
        if start >= sent:
            return 500, b"", {}
        request.close_connection = stop > sent
        span = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}", "Content-Length": str(stop - start)}
        return 206, data[start : min(stop, sent)], {"ETag": '"e"', **span}

    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with answering(partial(bucket, b"h", size)) as honest, answering(partial(bucket, b"e", 2_000_000)) as evil:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", evil)
        assert main(["fetch", "s3://acme/pirate"]) == 4
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", honest)
        assert handed_out(capsys, "s3://acme/pirate") == b"h" * size
