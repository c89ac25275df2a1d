"""The headers of a checkpoint that transformers saved: every tensor, and what it is called in memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_cli.base import checkpoint
from lora_cli.base.checkpoint import INDEX_FILE, WEIGHTS_FILE, has_weights, names_in_memory, read_checkpoint
from lora_cli.errors import FormatError
from lora_cli.sources.files import files_at
from tests.base.configs import CONFIGS
from tests.base.oracle import transformers_model
from tests.making import write_base


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2_vl", "qwen2_5_vl", "gpt2", "gpt_neox", "opt", "bloom"])
def test_each_tensor_has_its_name_in_memory(family: str, tmp_path: Path) -> None:
    for number, config in enumerate(CONFIGS[family]):
        directory = tmp_path / str(number)
        model = transformers_model({"model_type": family, **config})
        model.to_empty(device="cpu").save_pretrained(directory)
        names = names_in_memory(read_checkpoint(files_at(directory)))
        assert names.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("shards", [1, 3, 11])
def test_shards_hold_the_tensors_of_the_single_file(tmp_path: Path, shards: int) -> None:
    single = read_checkpoint(files_at(write_base(tmp_path / "single")))
    directory = write_base(tmp_path / "shards", shards=shards)
    found = read_checkpoint(files_at(directory))
    assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in single.items()}
    assert len({one.file for one in found.values()}) == shards
    assert has_weights(directory)
    assert not has_weights(tmp_path)
    assert read_checkpoint(files_at(tmp_path)) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lm_head.weight": "gone.safetensors"}, 'the shard "gone.safetensors" is missing'),
        ({"lm_head.weight": "../../etc/passwd"}, 'the shard "../../etc/passwd" is missing'),
        ({"ghost.weight": "model-00001-of-00002.safetensors"}, "does not contain ghost.weight, although the index"),
        ({"lm_head.weight": 7}, 'weight_map["lm_head.weight"]: must be a string, not an integer: 7'),
        ({"lm_head.weight": "config.json"}, "config.json: truncated, or not safetensors"),
    ],
)
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    index = write_base(tmp_path, shards=2) / INDEX_FILE
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"] | change}))
    with pytest.raises(FormatError) as caught:
        read_checkpoint(files_at(tmp_path))
    assert message in caught.value.message


def test_an_index_is_not_read_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path, shards=2)
    monkeypatch.setattr(checkpoint, "INDEX_CAP", 100)
    with pytest.raises(FormatError, match="longer than the limit of 100 bytes"):
        read_checkpoint(files_at(tmp_path))
    assert not (tmp_path / WEIGHTS_FILE).exists()
