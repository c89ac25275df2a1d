"""``lora-cli init``: what it writes is a manifest that the other commands take."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from lora_cli.documents.manifest import read_manifest
from tests.cli.running import Run
from tests.making import Q_PROJ, llama_modules, write_adapter, write_base_config


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """Two adapters of rank 4 and 12, whose configs name the base beside them, and a training run."""
    write_base_config(tmp_path / "base")
    config = {"base_model_name_or_path": "acme/tiny"}
    write_adapter(tmp_path / "all/sql", modules=llama_modules(), config=config)
    write_adapter(tmp_path / "all/chat v2", modules=llama_modules(), r=12, config=config)
    for number in (5, 10):
        write_adapter(tmp_path / f"all/run/checkpoint-{number}", modules=llama_modules(), config=config)
    return tmp_path


def test_a_folder_of_adapters_becomes_a_set_that_validates(run: Run) -> None:
    told = run("init all --engine vllm").err
    why = "max_lora_rank is 16: chat-v2 has the highest rank, 12; start the engine with it\n"
    assert told == f"{why}wrote set.yaml with 3 adapters; next: lora-cli fetch -f set.yaml\n"
    assert f"\n# {why}engine:" in Path("set.yaml").read_text("utf-8")
    manifest = read_manifest(Path("set.yaml"))
    assert str(manifest.base) == "hf://acme/tiny"
    assert manifest.engine is not None
    assert (manifest.engine.name, manifest.engine.max_lora_rank, manifest.engine.max_loras) == ("vllm", 16, 3)
    assert [(entry.name, entry.written) for entry in manifest.adapters] == [
        ("chat-v2", "./all/chat v2"),
        ("run", "./all/run/checkpoint-latest"),
        ("sql", "./all/sql"),
    ]
    run("validate -f set.yaml --base base")
    assert "set.yaml already exists" in run("init all", 2).err


def test_paths_are_those_from_the_manifest_and_nothing_is_named_twice(folder: Path, run: Run) -> None:
    Path("sets").mkdir()
    write_adapter(folder / "sql", config={"base_model_name_or_path": "acme/other"})
    told = run(f"init all/sql {folder}/all/sql sql/ --base base -o sets/one.yaml").err
    assert "base: acme/tiny, as 1 of 2 adapters say; others: sql-2 (acme/other)\n" in told
    written = yaml.safe_load(Path("sets/one.yaml").read_text())
    assert (written["base"], written["adapters"]) == (
        "../base",
        [{"name": "sql", "source": "../all/sql"}, {"name": "sql-2", "source": "../sql"}],
    )
    run("fetch -f sets/one.yaml")


def test_what_is_no_adapter_is_told_and_left_out(run: Run) -> None:
    assert "base: there is no adapter_config.json" in run("init base", 1).err
    assert not Path("set.yaml").exists()
    told = run("init all ./gone", 3).err
    assert [line.partition(":")[0] for line in told.splitlines()][:2] == ["left out", "hint"]
    assert yaml.safe_load(Path("set.yaml").read_text())["adapters"]


def test_without_a_rank_in_the_tensors_the_flag_has_the_usual_one(run: Run) -> None:
    flat = {f"base_model.model.{Q_PROJ}.lora_{one}.weight": np.zeros(4, "float32") for one in "AB"}
    write_adapter(Path("torn"), tensors=flat)
    assert "highest rank" not in run("init torn --engine vllm").err
    assert yaml.safe_load(Path("set.yaml").read_text())["engine"]["max_lora_rank"] == 16
