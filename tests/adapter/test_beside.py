"""The files beside an adapter's weights are read within bounds, and nothing in them is run; nor in a model card."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter.reading import CAP, CARD_CAP, LONGEST, MOST, Card, Companions, read_card, read_companions
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


def test_what_is_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("x")
    with (tmp_path / "added_tokens.json").open("wb") as stream:
        stream.truncate(CAP)
    for sized in (True, False):
        origin, files = remote(tmp_path, sized=sized)
        assert read_companions(files).beyond == ["chat_template.jinja"]
        assert origin.given <= CAP + 1


def card(data: bytes) -> Card:
    found = read_card(remote({"README.md": data})[1])
    assert found is not None
    return found


PLAIN = b"""---
license: other
license_name: llama3.1
license_link: https://example.com/LICENSE
base_model: meta-llama/Llama-3.1-8B
language: [en, no]
---

# SQL
"""


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n\n"])
def test_a_card_says_what_its_front_matter_says_however_it_is_written(before: bytes) -> None:
    said = Card("other", "llama3.1", "https://example.com/LICENSE", ("meta-llama/Llama-3.1-8B",))
    for data in (PLAIN, PLAIN.replace(b"\n", b"\r\n"), PLAIN.replace(b"---\n", b"---  \n"), PLAIN + b"\xc3" * CARD_CAP):
        assert card(before + data) == said


@pytest.mark.parametrize("data", [b"", b"# A title\n", b"text\n---\nlicense: mit\n---\n", b"----\nlicense: mit\n---\n"])
def test_a_card_without_front_matter_says_nothing(data: bytes) -> None:
    assert card(data) == Card()
    assert card(b"---\nlicense:\nlicense_name: {a: b}\nbase_model: [~, '', [y], x]\n---\n") == Card(base_model=("x",))
    assert read_card(remote({})[1]) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"---\na: &a [x, x]\nb: [*a, *a]\n---\n", "README.md:3: an alias"),
        (b"---\na: " + b"[" * 9000 + b"\n---\n", "nesting"),
        (b"---\nlicense: !!python/object/apply:os.system [id]\n---\n", "a tag (!)"),
        (b"---\nlicense: mit\nlicense: apache-2.0\n---\n", "README.md:3: license: duplicate key"),
        (b"---\n- license\n---\n", "is not a mapping"),
        (b"---\nlicense: a\x00b\n---\n", "this is not YAML"),
        (b"---\nlicense: mit\n" + b"x: y\n" * 9000, f"does not end in the {CARD_CAP} bytes read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ],
)
def test_a_hostile_card_is_said_to_be_unread(data: bytes, why: str) -> None:
    assert why in card(data).error
    assert card(data).license == ""


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"---\n{text}\n---\n".encode(errors="replace")))
def test_every_file_is_a_card_and_its_words_are_cut(data: bytes) -> None:
    assert isinstance(card(data), Card)
    long = card(b"---\nlicense: " + b"m" * 500 + b"\nbase_model: [" + b"t," * 500 + b"]\n---\n")
    assert (len(long.license), len(long.base_model)) == (LONGEST, MOST)
