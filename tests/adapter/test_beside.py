"""The files beside an adapter's weights are read within bounds, and nothing in them is run."""

import json
import os
from pathlib import Path

import pytest

from lora_cli.adapter import beside
from lora_cli.adapter.beside import REMOTE_CAP, Companions, read_companions
from lora_cli.sources.files import files_at
from tests.adapter.remote import remote


def read(directory: Path) -> Companions:
    return read_companions(files_at(directory))


def test_templates_classes_and_tokens_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("{{ rag }}")
    (tmp_path / "chat_template.jinja").write_text("{{ main }}")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": {"default": "{{ older }}"}}))
    named = [{"name": "tools", "template": "{{ tools }}"}, {"name": "broken"}]
    fields = {"chat_template": named, "auto_map": {"AutoTokenizer": ["tok.Tok", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<sql>": 32000}))

    found = read(tmp_path)

    assert found.templates == {
        "additional_chat_templates/rag.jinja": "{{ rag }}",
        "chat_template.jinja": "{{ main }}",
        "chat_template.json: chat_template.default": "{{ older }}",
        "tokenizer_config.json: chat_template[0]": "{{ tools }}",
    }
    assert list(found.code) == ["tokenizer_config.json: auto_map"]
    assert found.added_tokens == {"<sql>": 32000}
    assert found.unread == {}


def test_what_cannot_be_read_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    (tmp_path / "added_tokens.json").write_text('{"<sql>": "many"}')
    (tmp_path / "tokenizer_config.json").write_text("[]")
    os.mkfifo(tmp_path / "chat_template.json")

    found = read(tmp_path)

    assert found.added_tokens is None
    assert found.unread.keys() == {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "tokenizer_config.json",
    }


def test_a_pointer_in_a_files_place_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    (tmp_path / "chat_template.jinja").write_text("<html>{{ messages }}")
    found = read(tmp_path)
    assert found.unread == {"tokenizer_config.json": "is a git-lfs pointer, not the file itself"}
    assert found.templates == {"chat_template.jinja": "<html>{{ messages }}"}


def test_a_large_file_is_not_read_from_afar_nor_one_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat_template.jinja").write_text("x" * (REMOTE_CAP + 1))
    assert read(tmp_path).unread == {}
    for sized in (True, False):
        origin, files = remote(tmp_path, sized=sized)
        assert read_companions(files).unread == {"chat_template.jinja": f"has over {REMOTE_CAP} bytes"}
        assert origin.given == (0 if sized else REMOTE_CAP + 1)
    monkeypatch.setattr(beside, "LOCAL_CAP", REMOTE_CAP)
    assert read(tmp_path).unread.keys() == {"chat_template.jinja"}
