"""What is read of an adapter, in place or from an origin that counts what is asked of it; nothing in it is run."""

import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from lora_cli.adapter.reading import (
    CAP,
    FIRST_READ,
    read_adapter,
    read_companions,
)
from lora_cli.errors import TooLarge, Unreachable
from lora_cli.sources.files import files_at
from tests.adapter.remote import remote
from tests.making import Q_PROJ, llama_modules, write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def test_a_good_adapter_is_read_in_full(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules=llama_modules(["q_proj", "v_proj"]), r=4, dtype="bfloat16")
    for files in (files_at(tmp_path), remote(tmp_path, sized=False)[1]):
        adapter = read_adapter(files, "sql")
        assert (adapter.name, adapter.config_error, adapter.weights_error) == ("sql", None, None)
        assert adapter.config is not None
        assert adapter.config.r == 4
        assert adapter.pairs.keys() == {*llama_modules(["q_proj", "v_proj"])}
        assert [(one.shape, one.dtype) for one in adapter.pairs[Q_PROJ].factors] == [
            ((4, 64), "BF16"),
            ((64, 4), "BF16"),
        ]


def test_a_small_adapter_takes_one_range_for_each_file_and_a_large_header_a_second(tmp_path: Path) -> None:
    write_adapter(tmp_path, modules={"model.q": (1 << 16, 64)})
    source, files = remote(tmp_path)
    assert read_adapter(files, "sql").pairs.keys() == {"model.q"}
    assert sorted(path for path, _, _ in source.ranges) == [CONFIG, WEIGHTS]
    assert source.given < FIRST_READ + 2000 < (tmp_path / WEIGHTS).stat().st_size

    write_adapter(tmp_path, modules={f"model.layers.{i}.self_attn.q_proj": (1, 1) for i in range(1200)}, r=1)
    source, files = remote(tmp_path)
    assert len(read_adapter(files, "sql").pairs) == 1200
    ranges = [(start, stop) for path, start, stop in source.ranges if path == WEIGHTS]
    assert [ranges[0], ranges[1][0], len(ranges)] == [(0, FIRST_READ), FIRST_READ, 2]


@pytest.mark.parametrize(
    ("name", "data", "sized", "reason"),
    [
        (CONFIG, b"", True, "not JSON: Expecting value"),
        *((CONFIG, b" " * (9 << 20), sized, "8388609 bytes are over the limit") for sized in (True, False)),
        (CONFIG, None, True, "not a regular file"),
        (WEIGHTS, (1000).to_bytes(8, "little") + b"{}", True, "truncated"),
        (WEIGHTS, (1000).to_bytes(8, "little") + b"{}", False, "the header has 1000 bytes, but only 2 are present"),
        (WEIGHTS, None, True, "not a regular file"),
        ("adapter_model.bin", b"PK\x03\x04", False, "does not report its size"),
    ],
)
def test_what_cannot_be_read_is_the_adapters_error_not_ours(
    tmp_path: Path, name: str, data: bytes | None, sized: bool, reason: str
) -> None:
    (write_adapter(tmp_path) / (CONFIG if name == CONFIG else WEIGHTS)).unlink()
    os.mkfifo(tmp_path / name) if data is None else (tmp_path / name).write_bytes(data)
    adapter = read_adapter(files_at(tmp_path) if data is None else remote(tmp_path, sized=sized)[1], "sql")
    error, other = adapter.config_error, adapter.weights_error
    if name != CONFIG:
        error, other = other, error
    assert ((adapter.config is None), bool(adapter.pairs)) == (name == CONFIG, name == CONFIG)
    assert other is None
    assert error is not None
    assert error.where.startswith(name)
    assert reason in str(error)


def test_what_the_source_raises_is_not_the_adapters_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, files = remote(write_adapter(tmp_path))
    monkeypatch.setattr(source, "read", Mock(side_effect=Unreachable("the line is dead")))
    with pytest.raises(Unreachable):
        read_adapter(files, "sql")


def test_templates_classes_and_tokens_are_found_wherever_they_stand() -> None:
    named = [{"name": "tools", "template": "{{ tools }}"}, {"name": "broken"}]
    fields = {"chat_template": named, "auto_map": {"AutoTokenizer": ["tok.Tok", None]}}
    content = {
        "additional_chat_templates/rag.jinja": b"{{ rag }}",
        "chat_template.jinja": b"<html>{{ main }}\xff",
        "chat_template.json": json.dumps({"chat_template": {"default": "{{ older }}"}}).encode(),
        "tokenizer_config.json": json.dumps(fields).encode(),
        "added_tokens.json": json.dumps({"<sql>": 32000}).encode(),
    }
    found = read_companions(remote(content)[1])
    assert found.templates == {
        "additional_chat_templates/rag.jinja": "{{ rag }}",
        "chat_template.jinja": "<html>{{ main }}\ufffd",
        "chat_template.json: chat_template[default]": "{{ older }}",
        "tokenizer_config.json: chat_template[0]": "{{ tools }}",
    }
    assert list(found.code) == ["tokenizer_config.json: auto_map"]
    assert (found.added_tokens, found.unread) == ({"<sql>": 32000}, {})


def test_what_cannot_be_read_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "added_tokens.json").write_text('{"<sql>": "many"}')
    (tmp_path / "tokenizer_config.json").write_text("[]")
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    os.mkfifo(tmp_path / "chat_template.json")
    found = read_companions(files_at(tmp_path))
    assert found.added_tokens is None
    assert found.unread["config.json"].reason == "is a git-lfs pointer, not the file itself"
    names = ("config", "added_tokens", "chat_template", "tokenizer_config")
    assert found.unread.keys() == {f"{name}.json" for name in names}


def test_what_is_beyond_the_limit_is_not_read() -> None:
    for sized in (True, False):
        origin, files = remote({"added_tokens.json": bytes(CAP), "chat_template.jinja": b"x"}, sized=sized)
        unread = read_companions(files).unread
        assert [path for path, error in unread.items() if isinstance(error, TooLarge)] == ["chat_template.jinja"]
        assert origin.given <= CAP + 1
