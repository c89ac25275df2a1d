"""Typed getters over untrusted values."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lora_cli import parse
from lora_cli.errors import FormatError
from lora_cli.text import cut, did_you_mean, duration, quoted, shown

WRONG: list[tuple[Callable[[Any, str], Any], Any, str]] = [
    (parse.text, 8, "f: r: must be a string, not an integer: 8"),
    (parse.boolean, 1, "f: r: must be a boolean, not an integer: 1"),
    (parse.integer, "8", 'f: r: must be an integer, not a string: "8"'),
    (parse.integer, 8.0, "f: r: must be an integer, not a number: 8.0"),
    (parse.integer, True, "f: r: must be an integer, not a boolean: true"),
    (partial(parse.integer, minimum=1), 0, "f: r: must be at least 1, not 0"),
    (partial(parse.integer, maximum=9), 10, "f: r: must be at most 9, not 10"),
    (lambda value, where: parse.required(value, "b", where), {"a": 1}, "f: r: b is missing"),
    (parse.number, float("nan"), "f: r: must be finite, not nan"),
    (parse.number, float("inf"), "f: r: must be finite, not inf"),
    (parse.number, 10**309, f"f: r: must fit in a float, not 1{'0' * 58}…"),
    (parse.number, "1", 'f: r: must be a number, not a string: "1"'),
    (parse.mapping, [], "f: r: must be an object, not a list: []"),
    (parse.mapping, {1: 2}, "f: r: the key 1: must be a string, not an integer: 1"),
    (parse.sequence, "abc", 'f: r: must be a list, not a string: "abc"'),
    (parse.list_of(parse.integer), [1, "2"], 'f: r[1]: must be an integer, not a string: "2"'),
    (parse.map_of(parse.integer), {"a": {}}, 'f: r["a"]: must be an integer, not an object: {}'),
]


@pytest.mark.parametrize(("getter", "value", "message"), WRONG)
def test_a_value_of_the_wrong_type_is_an_error_that_says_where(
    getter: Callable[[Any, str], Any], value: Any, message: str
) -> None:
    with pytest.raises(FormatError) as caught:
        getter(value, "f: r")
    assert str(caught.value) == message


def test_a_mistyped_word_gets_the_nearest_known_one_as_a_hint() -> None:
    assert did_you_mean("adpaters", ["adapters", "base"]) == "did you mean adapters?"
    assert did_you_mean("zzz", ["adapters", "base"]) == "known: adapters, base"
    assert did_you_mean("zzz", words := [f"a{n:02}" for n in range(40)]) == f"known: {', '.join(words)}"
    assert did_you_mean("zzz", [*words, "a40"]).endswith("; there are 37 more")


def test_a_long_or_unprintable_value_is_shown_short_and_on_one_line() -> None:
    assert shown("x" * 100) == '"' + "x" * 58 + "…"
    assert shown("a\nb\x1b[31m") == "'a\\nb\\x1b[31m'"
    assert (cut("abcdefghi", 8), quoted("x" * 90, 10), duration(3720)) == ("abcd…ghi", "'xxxxxx...", "1 h 02 min")


MALFORMED = {
    b"\xff": "f: not UTF-8 at byte 0",
    b"{,}": "f: not JSON: Expecting property name enclosed in double quotes at line 1 column 2",
    b"": "f: not JSON: Expecting value at line 1 column 1",
    b"\xef\xbb\xbf{}": "f: not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig) at line 1 column 1",
    b"[" * 100_000: "f: not usable JSON: nested too deeply",
    b'[{"a": ' * 40 + b"1" + b"}]" * 40: "f: not usable JSON: nested too deeply",
    b"9" * 5_000: "f: not usable JSON: a number is too long",
}


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_not_json_is_an_error(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse.json_value(data, "f")
    assert str(caught.value) == MALFORMED[data]


def test_of_a_duplicate_key_the_last_counts_and_it_is_reported() -> None:
    duplicates: list[str] = []
    assert parse.json_value(b'{"r": 4, "x": {"r": 1}, "r": 8}', "f", duplicates=duplicates) == {"r": 8, "x": {"r": 1}}
    assert duplicates == ["r"]
