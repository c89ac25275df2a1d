"""A base model is read from a folder, the Hub or one file; headers only, and never more than it takes."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cli.adapter.byte_ranges import FIRST_READ
from lora_cli.base import reading
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import UnknownArchitecture, base_from_config
from lora_cli.base.reading import read_base, read_base_file
from lora_cli.errors import FormatError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG_CAP
from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import load_settings
from lora_cli.sources.files import Files, files_at
from lora_cli.sources.hub import HubSource
from tests.adapter.remote import remote
from tests.hub_server import Hub
from tests.making import base_config, raw, write_adapter, write_base, write_base_config, write_safetensors

ONE = raw(np.zeros((1, 1)))
LLAMA = base_from_config(base_config(), "base")


def read(directory: Path, **how: Any) -> BaseModel:
    return read_base(files_at(directory), "base", **how)


def without_config(directory: Path) -> Path:
    (directory / "config.json").unlink()
    return directory


def same_model(one: BaseModel, other: BaseModel) -> bool:
    return (one.modules, one.parameters, one.num_layers, one.hidden_size, one.vocab_size, one.tied_embeddings) == (
        (other.modules, other.parameters, other.num_layers, other.hidden_size, other.vocab_size, other.tied_embeddings)
    )


def test_a_config_of_a_known_family_is_all_that_is_read(tmp_path: Path) -> None:
    source, files = remote(write_base(tmp_path))
    assert read_base(files, "base") == LLAMA
    assert [path for path, _, _ in source.ranges] == ["config.json"]


def test_a_folder_with_only_a_config_is_a_base_model(tmp_path: Path) -> None:
    assert read(write_base_config(tmp_path).parent) == LLAMA


@pytest.mark.parametrize("shards", [1, 3, 11])
@pytest.mark.parametrize("tied", [False, True])
def test_without_a_config_the_headers_of_the_checkpoint_tell(tmp_path: Path, shards: int, tied: bool) -> None:
    expected = base_from_config(base_config(tie_word_embeddings=tied), "base")
    base = read(without_config(write_base(tmp_path, shards=shards, tie_word_embeddings=tied)))
    assert same_model(base, expected)
    assert (base.source, base.model_type) == ("checkpoint header", "unknown")


def test_a_config_of_an_unknown_family_leaves_it_to_the_headers(tmp_path: Path) -> None:
    write_base(tmp_path, shards=2)
    (tmp_path / "config.json").write_text('{"model_type": "new_thing"}')
    base = read(tmp_path, fallback=no_fallback)
    assert same_model(base, LLAMA)
    assert base.model_type == "new_thing"


def no_fallback(config: Mapping[str, Any]) -> BaseModel:
    pytest.fail(f"asked for {config}")


def test_the_fallback_is_the_last_resort_and_gets_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "new_thing", "width": 3}')
    asked: list[Mapping[str, Any]] = []

    def fallback(config: Mapping[str, Any]) -> BaseModel:
        asked.append(config)
        return LLAMA

    assert read(tmp_path, fallback=fallback) == LLAMA
    assert read_base_file(tmp_path / "config.json", fallback=fallback) == LLAMA
    write_safetensors(tmp_path / "model.safetensors", {})
    assert read(tmp_path, fallback=fallback) == LLAMA
    assert asked == [{"model_type": "new_thing", "width": 3}] * 3


def test_a_checkpoint_is_read_to_the_end_of_its_header_and_no_further(tmp_path: Path) -> None:
    without_config(write_base(tmp_path))
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.seek(0, os.SEEK_END)
        assert stream.tell() > FIRST_READ
    source, files = remote(tmp_path)
    read_base(files, "base")
    assert source.ranges == [("model.safetensors", 0, FIRST_READ)]


def test_a_shard_with_an_uncommonly_long_header_is_read_again(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.mlp.up_proj{'x' * 200}.weight" for i in range(700)]
    empty = dict.fromkeys(names, ONE)
    write_safetensors(tmp_path / "model-00001-of-00001.safetensors", empty)
    write_index(tmp_path, dict.fromkeys(names, "model-00001-of-00001.safetensors"))
    assert (tmp_path / "model-00001-of-00001.safetensors").stat().st_size > FIRST_READ
    assert read(tmp_path).num_layers == 700


def write_index(directory: Path, weight_map: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def change_index(directory: Path, change: Mapping[str, Any]) -> None:
    path = directory / "model.safetensors.index.json"
    write_index(directory, json.loads(path.read_text())["weight_map"] | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lm_head.weight": "gone.safetensors"}, 'the shard "gone.safetensors" is missing'),
        ({"lm_head.weight": "../../etc/passwd"}, 'the shard "../../etc/passwd" is missing'),
        ({"lm_head.weight": "/etc/passwd"}, 'the shard "/etc/passwd" is missing'),
        (
            {"ghost.weight": "model-00001-of-00002.safetensors"},
            "does not contain ghost.weight, although the index lists it",
        ),
        ({"lm_head.weight": 7}, 'weight_map["lm_head.weight"]: must be a string, not an integer: 7'),
        ({"lm_head.weight": "config.json"}, "config.json: not a safetensors file"),
        ({str(i): f"{i}.safetensors" for i in range(5000)}, "lists 5002 shards, over the limit"),
    ],
)
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    write_base(tmp_path, shards=2)
    (tmp_path / "config.json").write_text('{"model_type": "new_thing"}')
    change_index(tmp_path, change)
    with pytest.raises(FormatError) as caught:
        read(tmp_path)
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', "[]", "not JSON", ""])
def test_an_index_that_is_none_is_a_format_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(FormatError, match=r"model\.safetensors\.index\.json: "):
        read(tmp_path)


def test_an_index_is_not_read_beyond_its_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_config(write_base(tmp_path, shards=2))
    size = (tmp_path / "model.safetensors.index.json").stat().st_size
    monkeypatch.setattr(reading, "INDEX_CAP", size)
    assert same_model(read(tmp_path), LLAMA)
    monkeypatch.setattr(reading, "INDEX_CAP", size - 1)
    with pytest.raises(FormatError, match="longer than"):
        read(tmp_path)


def test_where_two_shards_have_a_tensor_the_index_decides(tmp_path: Path) -> None:
    without_config(write_base(tmp_path, shards=2))
    write_safetensors(tmp_path / "model-00003-of-00003.safetensors", {"lm_head.weight": ONE, "x.weight": ONE})
    change_index(tmp_path, {"x.weight": "model-00003-of-00003.safetensors"})
    base = read(tmp_path)
    assert base.modules["lm_head"] == LLAMA.modules["lm_head"]


def test_too_many_tensors_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_TENSORS", 5)
    without_config(write_base(tmp_path, shards=2))
    with pytest.raises(FormatError, match="over the limit"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[]", '{"model_type": "llama"', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_a_config_that_is_none_is_a_format_error_whatever_else_is_there(tmp_path: Path, text: str) -> None:
    write_base(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FormatError, match=r"config\.json: "):
        read(tmp_path)
    with pytest.raises(FormatError, match=r"config\.json: "):
        read_base_file(tmp_path / "config.json")


def test_a_config_is_not_read_beyond_its_cap(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(BASE_CONFIG_CAP + 1)
    source, files = remote(tmp_path)
    with pytest.raises(FormatError, match="longer than"):
        read_base(files, "base")
    assert source.ranges == [("config.json", 0, BASE_CONFIG_CAP + 1)]
    with pytest.raises(FormatError, match="longer than"):
        read_base_file(tmp_path / "config.json")


def test_a_fifo_for_a_config_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FormatError, match="not a regular file"):
        read(tmp_path)
    with pytest.raises(FormatError, match="not a regular file"):
        read_base_file(tmp_path / "config.json")


def test_a_folder_that_is_no_base_model_says_what_it_is(tmp_path: Path) -> None:
    hints = {}
    for name in ("adapter", "pickled", "gguf", "empty"):
        (tmp_path / name).mkdir()
    write_adapter(tmp_path / "adapter")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "gguf" / "model.gguf").write_bytes(b"GGUF")
    for folder in tmp_path.iterdir():
        with pytest.raises(NotFound) as caught:
            read(folder)
        hints[folder.name] = caught.value.hint
    assert hints == {
        "adapter": "this is an adapter: use the model that it was trained on",
        "pickled": "pickled weights are not supported: add the model's config.json",
        "gguf": "GGUF is not supported: add the model's config.json",
        "empty": "a base model is a folder with config.json or model.safetensors",
    }


def test_an_unknown_family_without_a_checkpoint_says_what_would_do(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "lama"}')
    attempts: list[Callable[[], BaseModel]] = [lambda: read(tmp_path), lambda: read_base_file(path)]
    for attempt in attempts:
        with pytest.raises(UnknownArchitecture) as caught:
            attempt()
        assert caught.value.hint.startswith("did you mean llama? or use a folder with the model's checkpoint")
        assert "lora-cli[models]" in caught.value.hint


def test_one_file_may_be_a_config_or_a_whole_checkpoint(tmp_path: Path) -> None:
    write_base(tmp_path)
    base = read_base_file(tmp_path / "config.json")
    assert same_model(base, LLAMA)
    assert base.name == str(tmp_path / "config.json")
    assert same_model(read_base_file(tmp_path / "model.safetensors"), LLAMA)
    with pytest.raises(NotFound):
        read_base_file(tmp_path / "nothing.json")
    with pytest.raises(FormatError, match="not a regular file"):
        read_base_file(tmp_path)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_model_on_the_hub_is_read_by_its_config_else_by_header_ranges(tmp_path: Path, shards: int) -> None:
    write_base(tmp_path, shards=shards)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Hub() as hub:
        hub.add("acme/with", files)
        hub.add("acme/without", {name: data for name, data in files.items() if name != "config.json"})
        source = HubSource(load_settings({}, {"HF_ENDPOINT": hub.endpoint}))
        assert read_base(Files(source, source.resolve(AdapterRef("hf", "acme/with"))), "base") == LLAMA
        assert hub.count(r"/resolve/.*safetensors") == 0
        without = Files(source, source.resolve(AdapterRef("hf", "acme/without")))
        assert same_model(read_base(without, "base"), LLAMA)
        assert hub.count(r"api .*/resolve/.*\.safetensors\b(?!\.index)") == shards


def test_the_real_model_reads_the_same_from_its_config_and_from_its_header(real_model: Path, tmp_path: Path) -> None:
    from_config = read(real_model)
    from_header = read_base_file(real_model / "model.safetensors")
    assert same_model(from_config, from_header)
    assert from_config.tied_embeddings
    assert len(from_config.modules) == 30 * 7 + 2
