"""Model cards: what they say, and what hostile ones do not do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.documents.model_card import LONGEST, MOST, Card, parse_card

PLAIN = b"""---
license: other
license_name: llama3.1
license_link: https://example.com/LICENSE
base_model: meta-llama/Llama-3.1-8B
language: [en, no]
model-index:
- name: sql
---

# SQL
"""


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        PLAIN.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + PLAIN,
        b"\n\n" + PLAIN,
        PLAIN.replace(b"---\n", b"---  \n"),
        PLAIN + "é".encode()[:1],
    ],
    ids=["plain", "crlf", "bom", "empty lines", "spaces", "cut within a letter"],
)
def test_a_card_says_what_its_front_matter_says_however_it_is_written(data: bytes) -> None:
    said = Card("other", "llama3.1", "https://example.com/LICENSE", ("meta-llama/Llama-3.1-8B",))
    assert parse_card(data, whole=False) == said


@pytest.mark.parametrize("data", [b"", b"# A title\n", b"text\n---\nlicense: mit\n---\n", b"----\nlicense: mit\n---\n"])
def test_a_card_without_front_matter_says_nothing(data: bytes) -> None:
    assert parse_card(data, whole=True) == Card()
    card = b"---\nlicense:\nlicense_name: {a: b}\nbase_model: [~, '', null, [y], x]\n---\n"
    assert parse_card(card, whole=True) == Card(base_model=("x",))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"---\na: &a [x, x]\nb: [*a, *a]\n---\n", "README.md:3: an alias"),
        (b"---\na: " + b"[" * 9000 + b"\n---\n", "nest"),
        (b"---\n" + b"? " * 4000 + b"\n---\n", "README.md:"),
        (b"---\nlicense: !!python/object/apply:os.system [id]\n---\n", "a tag (!)"),
        (b"---\nlicense: mit\nlicense: apache-2.0\n---\n", "README.md:3: license: duplicate key"),
        (b"---\n- license\n---\n", "is not a mapping"),
        (b"---\nlicense: [mit\n---\n", "this is not YAML"),
        (b"---\nlicense: a\x00b\n---\n", "this is not YAML"),
        (b"---\nlicense: mit\n", "does not end"),
        (b"---\nlicense: mit\n" + b"x: y\n" * 100, "does not end in the 517 bytes read"),
        (b"\x80\x81", "is not text in UTF-8"),
        (b"---\nlicense: mit\n---\n\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_a_hostile_card_is_said_to_be_unread(data: bytes, why: str) -> None:
    card = parse_card(data, whole=b"x: y" not in data)
    assert why in card.error
    assert card.license == ""


def test_long_words_and_lists_are_cut() -> None:
    many = b"---\nlicense: " + b"m" * 5000 + b"\nbase_model: [" + b"t," * 5000 + b"]\n---\n"
    card = parse_card(many, whole=True)

    assert (len(card.license), len(card.base_model)) == (LONGEST, MOST)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f"---\n{text}\n---\n".encode(errors="replace")))
def test_every_file_is_a_card_or_is_said_to_be_none(data: bytes) -> None:
    for whole in (True, False):
        assert isinstance(parse_card(data, whole=whole), Card)
