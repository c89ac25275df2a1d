"""A base model is read from a folder, the Hub or one file; headers only, and never more than it takes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_cli.base import reading
from lora_cli.base.base_model import BaseModel
from lora_cli.base.families import UnknownArchitecture, base_from_config
from lora_cli.base.reading import read_base
from lora_cli.errors import FormatError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG_CAP
from lora_cli.refs.reference import AdapterRef
from lora_cli.settings import load_settings
from lora_cli.sources.files import Files, files_at
from lora_cli.sources.hub import HubSource
from tests.adapter.remote import remote
from tests.base.oracle import stated
from tests.hub_server import Hub
from tests.making import base_config, write_adapter, write_base, write_safetensors

LLAMA = base_from_config(base_config(), "base")
CONFIG, CHECKPOINT, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def read(directory: Path, **how: Any) -> BaseModel:
    return read_base(files_at(directory), "base", **how)


def without_config(directory: Path) -> Path:
    (directory / CONFIG).unlink()
    return directory


def test_a_config_of_a_known_family_is_all_that_is_read(tmp_path: Path) -> None:
    source, files = remote(write_base(tmp_path))
    assert read_base(files, "base") == LLAMA
    assert [path for path, _, _ in source.ranges] == [CONFIG]
    (tmp_path / CHECKPOINT).unlink()
    assert read(tmp_path) == LLAMA


@pytest.mark.parametrize("shards", [1, 3, 11])
@pytest.mark.parametrize("tied", [False, True])
def test_without_a_config_the_headers_of_the_checkpoint_tell(tmp_path: Path, shards: int, tied: bool) -> None:
    expected = base_from_config(base_config(tie_word_embeddings=tied), "base")
    base = read(without_config(write_base(tmp_path, shards=shards, tie_word_embeddings=tied)))
    assert stated(base) == stated(expected)
    assert (base.source, base.model_type) == ("checkpoint header", "unknown")


def test_a_config_of_an_unknown_family_leaves_it_to_the_headers_and_then_to_the_fallback(tmp_path: Path) -> None:
    asked: list[Mapping[str, Any]] = []

    def fallback(config: Mapping[str, Any]) -> BaseModel:
        asked.append(config)
        return LLAMA

    write_base(tmp_path, shards=2)
    (tmp_path / CONFIG).write_text('{"model_type": "new_thing", "width": 3}')
    base = read(tmp_path, fallback=fallback)
    assert (stated(base), base.model_type, asked) == (stated(LLAMA), "new_thing", [])
    assert read_base(tmp_path / CONFIG, str(tmp_path / CONFIG), fallback=fallback) == LLAMA
    write_safetensors(tmp_path / CHECKPOINT, {})
    assert read(tmp_path, fallback=fallback) == LLAMA
    assert asked == [{"model_type": "new_thing", "width": 3}] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lm_head.weight": "gone.safetensors"}, 'the shard "gone.safetensors" is missing'),
        ({"lm_head.weight": "../../etc/passwd"}, 'the shard "../../etc/passwd" is missing'),
        ({"ghost.weight": "model-00001-of-00002.safetensors"}, "does not contain ghost.weight, although the index"),
        ({"lm_head.weight": 7}, 'weight_map["lm_head.weight"]: must be a string, not an integer: 7'),
        ({"lm_head.weight": CONFIG}, "config.json: truncated, or not safetensors"),
    ],
)
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, change: Mapping[str, Any], message: str) -> None:
    write_base(tmp_path, shards=2)
    (tmp_path / CONFIG).write_text('{"model_type": "new_thing"}')
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | change}))
    with pytest.raises(FormatError) as caught:
        read(tmp_path)
    assert message in caught.value.message


@pytest.mark.parametrize(("limit", "most"), [("INDEX_CAP", 100), ("MAX_TENSORS", 5)])
def test_an_index_and_headers_are_not_read_beyond_a_limit(
    tmp_path: Path, limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_config(write_base(tmp_path, shards=2))
    monkeypatch.setattr(reading, limit, most)
    with pytest.raises(FormatError, match=r"longer than the limit of 100 bytes|lists over 5 tensors"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[]", '{"model_type": "llama"', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_a_config_or_an_index_that_is_none_is_a_format_error(tmp_path: Path, text: str) -> None:
    write_base(tmp_path)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(FormatError, match=r"config\.json: "):
        read(tmp_path)
    with pytest.raises(FormatError, match=r"config\.json: "):
        read_base(tmp_path / CONFIG, str(tmp_path / CONFIG))
    (without_config(tmp_path) / CHECKPOINT).rename(tmp_path / "other.safetensors")
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(FormatError, match=r"model\.safetensors\.index\.json: "):
        read(tmp_path)


def test_a_config_is_not_read_beyond_its_cap(tmp_path: Path) -> None:
    with (tmp_path / CONFIG).open("wb") as stream:
        stream.truncate(BASE_CONFIG_CAP + 1)
    source, files = remote(tmp_path)
    with pytest.raises(FormatError, match="longer than"):
        read_base(files, "base")
    with pytest.raises(FormatError, match="longer than"):
        read_base(tmp_path / CONFIG, str(tmp_path / CONFIG))
    assert source.ranges == [(CONFIG, 0, BASE_CONFIG_CAP + 1)]


def test_a_folder_without_a_model_and_an_unknown_family_say_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"base contains neither config\.json nor model\.safetensors") as nothing:
        read(write_adapter(tmp_path))
    (tmp_path / CONFIG).write_text('{"model_type": "lama"}')
    with pytest.raises(UnknownArchitecture) as unknown:
        read(tmp_path)
    assert "and no adapter" in nothing.value.hint
    assert unknown.value.hint.startswith("did you mean llama? or use a folder with the model's checkpoint")


def test_one_file_may_be_a_config_or_a_whole_checkpoint(tmp_path: Path) -> None:
    write_base(tmp_path)
    base = read_base(tmp_path / CONFIG, str(tmp_path / CONFIG))
    assert stated(base) == stated(LLAMA) == stated(read_base(tmp_path / CHECKPOINT, str(tmp_path / CHECKPOINT)))
    assert base.name == str(tmp_path / CONFIG)
    for missing in ("nothing.json", "nothing.safetensors"):
        with pytest.raises(NotFound):
            read_base(tmp_path / missing, str(tmp_path / missing))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_model_on_the_hub_is_read_by_its_config_else_by_header_ranges(tmp_path: Path, shards: int) -> None:
    write_base(tmp_path, shards=shards)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Hub() as hub:
        hub.add("acme/with", files)
        hub.add("acme/without", {name: data for name, data in files.items() if name != CONFIG})
        source = HubSource(load_settings({}, {"HF_ENDPOINT": hub.endpoint}))
        assert read_base(Files(source, source.resolve(AdapterRef("hf", "acme/with"))), "base") == LLAMA
        assert hub.count(r"/resolve/.*safetensors") == 0
        without = Files(source, source.resolve(AdapterRef("hf", "acme/without")))
        assert stated(read_base(without, "base")) == stated(LLAMA)
        assert hub.count(r"api .*/resolve/.*\.safetensors\b(?!\.index)") == shards


def test_the_real_model_reads_the_same_from_its_config_and_from_its_header(real_model: Path) -> None:
    from_config = read(real_model)
    assert stated(from_config) == stated(read_base(real_model / CHECKPOINT, str(real_model / CHECKPOINT)))
    assert from_config.tied_embeddings
    assert len(from_config.modules) == 30 * 7 + 2
