"""The files beside an adapter's weights are read within bounds, and nothing in them is run."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.adapter import beside as companions
from lora_cli.adapter.beside import REMOTE_CAP, Companions, read_companions
from lora_cli.refs.reference import AdapterRef
from lora_cli.refs.snapshot import RemoteFile, Revision
from lora_cli.sources import Source
from lora_cli.sources.files import Files
from lora_cli.sources.local import LocalSource


def read(directory: Path, *, here: bool = True) -> Companions:
    source = LocalSource()
    return read_companions(Files(source, source.resolve(AdapterRef("file" if here else "hf", str(directory)))))


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


def test_a_large_file_is_not_read_from_afar_nor_a_huge_one_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat_template.jinja").write_text("x" * (REMOTE_CAP + 1))

    assert read(tmp_path).unread == {}
    assert read(tmp_path, here=False).unread == {
        "chat_template.jinja": f"has {REMOTE_CAP + 1} bytes, over the limit of {REMOTE_CAP}"
    }
    monkeypatch.setattr(companions, "LOCAL_CAP", REMOTE_CAP)
    assert read(tmp_path).unread.keys() == {"chat_template.jinja"}


class Endless(Source):
    """An origin that tells no size, and never stops sending."""

    def __init__(self) -> None:
        pass

    def resolve(self, ref: AdapterRef) -> Revision:
        return Revision(ref, "1", (RemoteFile("chat_template.jinja", None),))

    def read(self, revision: Revision, file: RemoteFile, start: int, stop: int | None) -> Iterator[bytes]:
        while True:
            yield b"x" * 1024


def test_a_file_without_an_end_is_left_where_the_bound_is() -> None:
    ref = AdapterRef("hf", "tiny/adapter")

    found = read_companions(Files(Endless(), Endless().resolve(ref)))

    assert found.unread == {"chat_template.jinja": f"is over the limit of {REMOTE_CAP} bytes"}


@given(
    fields=st.dictionaries(
        st.sampled_from(["chat_template", "auto_map", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "template"]), inner),
            max_leaves=5,
        ),
    )
)
def test_whatever_a_tokenizer_config_holds_it_is_read(
    fields: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("adapter")
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))

    found = read(directory)

    assert all(isinstance(template, str) for template in found.templates.values())
