"""A torn restore of the cache, or a disk, replaced blobs while their snapshots stayed sound."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from tests.hub_server import Hub
from tests.making import lora_config, lora_tensors, safetensors_bytes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]
FILES = {
    CONFIG: json.dumps(lora_config(["q_proj"], base_model_name_or_path="org/base")).encode(),
    WEIGHTS: safetensors_bytes(lora_tensors({"model.layers.0.self_attn.q_proj": (8, 8)}, r=4)),
}


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LORA_CLI_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    with Hub() as hub:
        hub.add("acme/pirate", FILES)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        Path("set.yaml").write_text(
            "apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{name: pirate, source: acme/pirate}]\n"
        )
        assert main(["fetch", "-f", "set.yaml"]) == 0
        yield hub


def short(path: Path) -> None:
    path.write_bytes(b"short")


def other_bytes_of_the_same_size(path: Path) -> None:
    data = next((data for data in FILES.values() if hashlib.sha256(data).hexdigest() == path.name), b"")
    path.write_bytes(bytes(len(data)))


def nothing(path: Path) -> None:
    """It is gone."""


DAMAGES = [short, other_bytes_of_the_same_size, nothing]


def damage(cache: Path, how: Callable[[Path], None]) -> None:
    """Each blob becomes another inode; snapshots, which are hard links to the old ones, stay as they are."""
    for blob in sorted(cache.glob("blobs/sha256/*/*")):
        blob.unlink()
        how(blob)


def check_sound(folder: Path) -> None:
    for name, data in FILES.items():
        assert not (folder / name).is_symlink()
        assert (folder / name).read_bytes() == data


@pytest.mark.parametrize("how", DAMAGES, ids=lambda how: how.__name__)
@pytest.mark.parametrize("argv", [["--to", "out"], ["--publish", "out"], ["--to", "out", "--offline", "--locked"]])
def test_only_what_is_sound_leaves_the_cache(
    tmp_path: Path, capsys: Capture, how: Callable[[Path], None], argv: list[str]
) -> None:
    damage(tmp_path / "cache", how)
    capsys.readouterr()
    assert main(["fetch", "-f", "set.yaml", *argv]) == 0
    check_sound(Path(capsys.readouterr().out.strip()))


def test_blobs_and_snapshot_damaged_alike_are_fetched_again(tmp_path: Path, hub: Hub, capsys: Capture) -> None:
    damage(tmp_path / "cache", short)
    for path in (tmp_path / "cache/snapshots").glob("sha256/*/*"):
        path.unlink()
        path.write_bytes(b"short")
    capsys.readouterr()
    assert main(["fetch", "-f", "set.yaml", "--to", "out"]) == 0
    check_sound(Path(capsys.readouterr().out.strip()))
