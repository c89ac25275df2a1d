"""The owner of a folder that was fetched with ``--link`` edits its weights and sets the clock of the file back."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_cli.cli.main import main
from lora_cli.store.blobs import BLOB_MTIME_NS
from tests.making import lora_config, lora_tensors, safetensors_bytes

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Capture = pytest.CaptureFixture[str]
SHAPES = {"model.layers.0.self_attn.q_proj": (8, 8)}
HONEST, EVIL = (safetensors_bytes(lora_tensors(SHAPES, r=4, seed=seed)) for seed in (1, 2))


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is locked and whose weights are hard links in the cache; then the folder's files are others."""
    monkeypatch.setenv("LORA_CLI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "team"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(lora_config(["q_proj"])))
    (folder / WEIGHTS).write_bytes(HONEST)
    os.utime(folder / WEIGHTS, (1_700_000_000, 1_700_000_000))
    assert main(["fetch", "--link", str(folder)]) == 0
    return folder


def keeps_its_time(status: os.stat_result) -> int:
    return status.st_mtime_ns


def has_the_time_of_blobs(_: os.stat_result) -> int:
    return BLOB_MTIME_NS


def edit(path: Path, mtime: Callable[[os.stat_result], int]) -> None:
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(EVIL)
    os.utime(path, ns=(before.st_atime_ns, mtime(before)))


@pytest.mark.parametrize("mtime", [keeps_its_time, has_the_time_of_blobs])
@pytest.mark.parametrize("uses", [0, 1, 3])
def test_it_is_found_before_anything_is_handed_out(
    team: Path, capsys: Capture, mtime: Callable[[os.stat_result], int], uses: int, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in (CONFIG, WEIGHTS):
        (elsewhere / name).write_bytes((team / name).read_bytes())
    Path("set.yaml").write_text(
        f"apiVersion: lora-cli/v1\nkind: AdapterSet\nadapters: [{{name: sql, source: '{elsewhere}'}}]\n"
    )
    assert main(["fetch", "-f", "set.yaml"]) == 0
    for _ in range(uses):
        assert main(["fetch", "--link", str(team)]) == 0
    edit(team / WEIGHTS, mtime)
    for argv in (
        ["-f", "set.yaml", "--locked"],
        ["-f", "set.yaml", "--to", "out"],
        ["-f", "set.yaml", "--publish", "p"],
    ):
        capsys.readouterr()
        assert main(["fetch", *argv]) == 0
        folder = Path(capsys.readouterr().out.strip())
        assert (folder / WEIGHTS).read_bytes() == HONEST
    assert (tmp_path / "cache/adapters/sql" / WEIGHTS).read_bytes() == HONEST


def test_an_edit_right_after_the_link_is_found_too(team: Path, capsys: Capture) -> None:
    edit(team / WEIGHTS, keeps_its_time)
    capsys.readouterr()
    assert main(["fetch", str(team)]) == 0
    assert Path(capsys.readouterr().out.strip(), WEIGHTS).read_bytes() == EVIL
    assert main(["cache", "verify"]) == 5
    assert main(["cache", "verify"]) == 0
