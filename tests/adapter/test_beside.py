"""The files beside an adapter's weights are read within bounds, and nothing in them is run."""

import json
import os
from pathlib import Path

from lora_cli.adapter.beside import CAP, MOST_FILES, UNSIZED, Companions, read_companions
from lora_cli.sources.files import files_at
from tests.adapter.remote import remote


def read(directory: Path) -> Companions:
    return read_companions(files_at(directory))


def test_templates_classes_and_tokens_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("{{ rag }}")
    (tmp_path / "chat_template.jinja").write_text("<html>{{ main }}")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": {"default": "{{ older }}"}}))
    named = [{"name": "tools", "template": "{{ tools }}"}, {"name": "broken"}]
    fields = {"chat_template": named, "auto_map": {"AutoTokenizer": ["tok.Tok", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<sql>": 32000}))

    found = read(tmp_path)

    assert found.templates == {
        "additional_chat_templates/rag.jinja": "{{ rag }}",
        "chat_template.jinja": "<html>{{ main }}",
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
    (tmp_path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")
    os.mkfifo(tmp_path / "chat_template.json")
    found = read(tmp_path)
    assert found.added_tokens is None
    assert found.unread["config.json"] == "is a git-lfs pointer, not the file itself"
    rest = {f"{name}.json" for name in ("config", "added_tokens", "chat_template", "tokenizer_config")}
    assert found.unread.keys() == {*rest, "chat_template.jinja"}
    assert found.beyond == []


def test_what_is_beyond_the_limits_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("x" * (UNSIZED + 1))
    origin, files = remote(tmp_path, sized=False)
    assert read_companions(files, threads=2).unread == {"chat_template.jinja": f"has over {UNSIZED} bytes"}
    assert origin.given == UNSIZED + 1
    assert read_companions(remote(tmp_path)[1]).unread == {}
    with (tmp_path / "added_tokens.json").open("wb") as stream:
        stream.truncate(CAP)
    origin, files = remote(tmp_path)
    assert read_companions(files).beyond == ["chat_template.jinja"]
    assert origin.given == CAP
    many = {f"additional_chat_templates/{number:03}.jinja": b"" for number in range(MOST_FILES + 2)}
    assert read_companions(remote(many)[1]).beyond == [*many][-2:]
