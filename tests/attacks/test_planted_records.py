"""A well-known reference was fetched from another server: for its own server it means what it did."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
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
Capture = pytest.CaptureFixture[str]
MODULES = ["model.layers.0.self_attn.q_proj"]


def weights(seed: int) -> bytes:
    return safetensors_bytes(lora_tensors(dict.fromkeys(MODULES, (8, 8)), r=4, seed=seed))


HONEST = {CONFIG: json.dumps(lora_config(["q_proj"])).encode(), WEIGHTS: weights(1)}
EVIL = {**HONEST, WEIGHTS: weights(2)}


def write_set(path: str, source: str) -> None:
    text = f'apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{{name: pirate, source: "{source}"}}]\n'
    Path(path).write_text(text)


@dataclass(frozen=True)
class Victim:
    """A reference that an honest server has, the same pinned, and a server that lies about it."""

    ref: str
    pinned: str
    evil: str

    def plant(self) -> None:
        """The cache holds what the other server has under the same references."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", self.evil)
            for ref in {self.ref, self.pinned}:
                assert main(["fetch", ref]) == 0


@pytest.fixture(autouse=True)
def a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.setenv("LORA_CLI_TIMEOUT", "5s")
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "first"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def victim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Victim]:
    """Its honest lock is ``set.lock.yaml``; the cache that is used from then on is empty."""
    with Hub() as honest, Hub() as evil:
        commit = honest.add("acme/pirate", HONEST)
        evil.add("acme/pirate", EVIL)
        repo = evil.repos["acme/pirate"]
        repo.commits = {commit: Commit(commit, {path: entry(path, data) for path, data in EVIL.items()})}
        repo.branches = {"main": commit}
        monkeypatch.setenv("HF_ENDPOINT", honest.endpoint)
        ref = "hf://acme/pirate"
        write_set("set.yaml", ref)
        assert main(["fetch", "-f", "set.yaml"]) == 0
        monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
        yield Victim(ref, f"{ref}@{commit}", evil.endpoint)


def handed_out(capsys: Capture, *argv: str) -> bytes:
    """The weights that ``fetch`` hands out."""
    capsys.readouterr()
    assert main(["fetch", *argv]) == 0
    return Path(capsys.readouterr().out.strip(), WEIGHTS).read_bytes()


def test_a_reference_means_what_its_own_server_says_and_a_lock_its_bytes(victim: Victim, capsys: Capture) -> None:
    victim.plant()
    for ref in (victim.ref, victim.pinned):
        assert main(["fetch", ref, "--offline"]) == 3
    for argv in (["-f", "set.yaml", "--locked"], ["-f", "set.yaml"], ["-f", "set.yaml", "--locked", "--offline"]):
        assert handed_out(capsys, *argv) == HONEST[WEIGHTS]
    for argv in ([victim.pinned], [victim.ref], [victim.ref, "--offline"]):
        assert handed_out(capsys, *argv) == HONEST[WEIGHTS]


def test_a_mirror_of_the_same_bytes_costs_no_second_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as one, Hub() as mirror:
        one.add("acme/pirate", HONEST)
        mirror.add("acme/pirate", HONEST)
        monkeypatch.setenv("HF_ENDPOINT", one.endpoint)
        assert main(["fetch", "acme/pirate"]) == 0
        monkeypatch.setenv("HF_ENDPOINT", mirror.endpoint)
        assert main(["fetch", "acme/pirate"]) == 0
        assert mirror.count("GET cdn") == 0
        assert main(["cache", "verify"]) == 0


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
