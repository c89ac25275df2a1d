"""A base is read by its config alone, and a checkpoint by its headers: each tensor has its name in memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.base.families import base_from_config
from lora_cli.base.reading import INDEX_FILE, has_weights, local_config, names_in_memory, read_base, read_checkpoint
from lora_cli.errors import FormatError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG_CAP
from lora_cli.sources.files import files_at
from tests.adapter.remote import remote
from tests.base.configs import CONFIGS
from tests.base.oracle import transformers_model
from tests.making import base_config, write_adapter, write_base


def test_a_config_is_all_that_is_read(tmp_path: Path, real_model: Path) -> None:
    source, files = remote(write_base(tmp_path))
    config, llama = tmp_path / "config.json", base_from_config(base_config(), "base")
    assert read_base(files, "base") == read_base(files_at(tmp_path), "base") == read_base(config, "base") == llama
    assert [path for path, _, _ in source.ranges] == ["config.json"]
    assert local_config(tmp_path) == local_config(config) == config.read_bytes()
    real = read_base(files_at(real_model), "base")
    assert real.tied_embeddings
    assert len(real.modules) == 30 * 7 + 2


@pytest.mark.parametrize("text", ["", "[]", '{"model_type"', "[" * 100_000, " " * (BASE_CONFIG_CAP + 1)])
def test_a_config_that_is_none_is_a_format_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    source, files = remote(tmp_path)
    for place in (files, tmp_path / "config.json"):
        with pytest.raises(FormatError, match=r"config\.json: "):
            read_base(place, "base")
    assert source.given <= BASE_CONFIG_CAP + 1


def test_what_is_no_base_says_what_would_be_one(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path)
    for place in (files_at(adapter), tmp_path / "nothing.json", adapter / "adapter_model.safetensors"):
        with pytest.raises(NotFound, match=r"base contains no config\.json"):
            read_base(place, "base")


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2_vl", "qwen2_5_vl", "gpt2", "gpt_neox", "opt", "bloom"])
def test_each_tensor_has_its_name_in_memory(family: str, tmp_path: Path) -> None:
    for number, config in enumerate(CONFIGS[family]):
        directory = tmp_path / str(number)
        model = transformers_model({"model_type": family, **config})
        model.to_empty(device="cpu").save_pretrained(directory)
        names = names_in_memory(read_checkpoint(files_at(directory)))
        assert names.keys() == dict(model.named_parameters()).keys()


def test_shards_hold_the_tensors_of_the_single_file(tmp_path: Path) -> None:
    single = read_checkpoint(files_at(write_base(tmp_path / "single")))
    found = read_checkpoint(files_at(write_base(tmp_path / "shards", shards=11)))
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in single.items()}
    assert len({one.file for one in found.values()}) == 11
    assert has_weights(tmp_path / "shards")
    assert not has_weights(tmp_path)
    assert read_checkpoint(files_at(tmp_path)) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lm_head.weight": "../../etc/passwd"}, 'the shard "../../etc/passwd" is missing'),
        ({"lm_head.weight": 7}, 'weight_map["lm_head.weight"]: must be a string, not an integer: 7'),
        ({"lm_head.weight": "config.json"}, "config.json: is truncated, or cannot be followed"),
    ],
)
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    index = write_base(tmp_path, shards=2) / INDEX_FILE
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"] | change}))
    with pytest.raises(FormatError) as caught:
        read_checkpoint(files_at(tmp_path))
    assert message in caught.value.message
