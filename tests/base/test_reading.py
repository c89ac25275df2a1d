"""A base model is read from a folder, the Hub or one file, by its config alone, and never more than it takes."""

from pathlib import Path

import pytest

from lora_cli.base.families import base_from_config
from lora_cli.base.reading import local_config, read_base
from lora_cli.errors import FormatError, NotFound
from lora_cli.refs.adapter_files import BASE_CONFIG_CAP
from lora_cli.sources.files import files_at
from tests.adapter.remote import remote
from tests.making import base_config, write_adapter, write_base

LLAMA = base_from_config(base_config(), "base")


def test_a_config_of_a_known_family_is_all_that_is_read(tmp_path: Path, real_model: Path) -> None:
    source, files = remote(write_base(tmp_path))
    config = tmp_path / "config.json"
    assert read_base(files, "base") == read_base(files_at(tmp_path), "base") == read_base(config, "base") == LLAMA
    assert [path for path, _, _ in source.ranges] == ["config.json"]
    assert local_config(tmp_path) == local_config(config) == config.read_bytes()
    real = read_base(files_at(real_model), "base")
    assert real.tied_embeddings
    assert len(real.modules) == 30 * 7 + 2


def test_a_config_of_an_unknown_family_is_for_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cli.base.from_transformers.base_from_transformers", dict)
    (tmp_path / "config.json").write_text('{"model_type": "lama", "width": 3}')
    assert dict(read_base(files_at(tmp_path), "base")) == {"model_type": "lama", "width": 3}  # type: ignore[call-overload]


@pytest.mark.parametrize("text", ["", "not JSON", "[]", '{"model_type"', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_config_that_is_none_is_a_format_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    for place in (files_at(tmp_path), tmp_path / "config.json"):
        with pytest.raises(FormatError, match=r"config\.json: "):
            read_base(place, "base")


def test_a_config_is_not_read_beyond_its_cap(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(BASE_CONFIG_CAP + 1)
    source, files = remote(tmp_path)
    for place in (files, tmp_path / "config.json"):
        with pytest.raises(FormatError, match="longer than"):
            read_base(place, "base")
    assert source.ranges == [("config.json", 0, BASE_CONFIG_CAP + 1)]


def test_what_is_no_base_says_what_would_be_one(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path)
    for place in (files_at(adapter), tmp_path / "nothing.json", adapter / "adapter_model.safetensors"):
        with pytest.raises(NotFound, match=r"base contains no config\.json") as nothing:
            read_base(place, "base")
        assert "and no adapter" in nothing.value.hint
