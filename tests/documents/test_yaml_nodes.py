import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.documents.yaml_nodes import (
    DEPTH,
    KEYS,
    NODES,
    TEXT_CAP,
    Number,
    YamlPlaces,
    compose,
    plain,
)
from lora_cli.errors import UsageError


def test_values_read_as_they_are_written() -> None:
    node = compose("a: 1\nb: [x, 'no', 1.5, true, ~]\nc:\n  d: \"2\"\n", "f.yaml")
    assert plain(node) == {"a": 1, "b": ["x", "no", Number("1.5"), True, None], "c": {"d": "2"}}


def test_a_decimal_keeps_its_digits() -> None:
    assert plain(compose("0.30", "f")) == Number("0.30")


def test_a_mapping_has_as_many_keys_as_the_limit_and_no_more() -> None:
    text = "".join(f"k{number}: 1\n" for number in range(KEYS))
    assert len(plain(compose(text, "f"))) == KEYS
    with pytest.raises(UsageError, match=f"f:{KEYS + 1}: a mapping of over {KEYS} keys"):
        compose(f"{text}more: 1\n", "f")


def test_what_is_at_a_path_is_found_with_its_line() -> None:
    places = YamlPlaces(compose("a:\n  - b:\n      c: 1\n", "f.yaml"))
    assert (places.line(("a", 0, "b", "c")), places.written(("a", 0, "b", "c"))) == (3, "1")
    assert (places.line(("a", 0, "b")), places.line(("a", 0, "b"), key=True)) == (3, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml:1: the document is empty"),
        ("# nothing\n", "f.yaml:1: the document is empty"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: a: duplicate key (first in line 1)"),
        ("a: {b: 1, b: 2}\n", "f.yaml:1: b: duplicate key (first in line 1)"),
        ("a: !!python/object/apply:os.system ['true']\n", "f.yaml:1: the tag tag:yaml.org,2002:python/object/apply"),
        ("a: !x 1\n", "f.yaml:1: the tag !x is not supported"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: a second document starts here"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "f.yaml:3: merge keys (<<) are not supported"),
        ("a: &a [*a]\n", "f.yaml:1: the alias *a does not refer to an earlier, complete anchor"),
        ("a: *nothing\n", "f.yaml:1: "),
        ("a: &x 1\nb: &x 2\n", "f.yaml:2: duplicate anchor &x"),
        ("? [a]\n: 1\n", "f.yaml:1: a key must be a single value"),
        ("x: &k a\n? *k\n: 1\n", "f.yaml:2: a key must be a single value, not an alias"),
        ("k" * 201 + ": 1\n", "f.yaml:1: a key of over 200 characters"),
        ("a: [1\nb: 2\n", "f.yaml:2: this is not YAML: "),
        ("a: 'x\n", "this is not YAML: "),
        ("a: \x00\n", "this is not YAML: "),
        ("a: \ud800\n", "this is not YAML: "),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"f.yaml:1: nested deeper than {DEPTH} levels"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose(text, "f.yaml")
    assert message in caught.value.message
    assert caught.value.hint


def test_aliases_are_followed_but_never_multiply_beyond_the_bound() -> None:
    assert plain(compose("a: &x [1, 2]\nb: *x\n", "f")) == {"a": [1, 2], "b": [1, 2]}
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 15)]
    with pytest.raises(UsageError, match=f"more than {NODES} values, including aliases"):
        compose("\n".join(["a0: &a0 [x]", *levels]), "f")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "[" * 500_000,
        "{a: " * 200_000,
        "- " * 300_000,
        "a: " * 100_000,
        "&a " * 100_000,
        "*" * 500_000,
        "!" * 500_000,
        "? " * 200_000,
    ],
)
def test_hostile_nesting_is_refused_at_once(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(UsageError) as caught:
        compose(text, "f")
    assert caught.value.hint
    assert time.monotonic() - start < 5


def test_a_document_beyond_the_bound_is_not_read() -> None:
    with pytest.raises(UsageError, match="characters long"):
        compose("#" * (TEXT_CAP + 1), "f")


# JSON escapes characters beyond the first plane as surrogate pairs, which YAML has not.
TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_json_writes_is_read_back(value: object) -> None:
    assert plain(compose(json.dumps(value), "f")) == value


@given(JSON)
def test_what_pyyaml_writes_is_read_back(value: object) -> None:
    assert plain(compose(yaml.safe_dump(value), "f")) == value


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@`?, \n\t", max_size=60))
@settings(max_examples=300)
def test_any_text_is_a_document_or_a_usage_error_with_its_line(text: str) -> None:
    try:
        compose(text, "some.yaml")
        said = "some.yaml:"
    except UsageError as error:
        said = error.message
    assert said.startswith("some.yaml:")


@given(st.text(alphabet="ab:-[]{},'\" \n1~", max_size=40))
@settings(max_examples=300)
def test_what_both_read_means_what_pyyaml_says(text: str) -> None:
    try:
        ours = plain(compose(text, "f"))
    except UsageError:
        return
    loaded = yaml.load(text, Loader=yaml.BaseLoader)
    assert _as_text(ours) == _as_text(loaded)


def _as_text(value: object) -> object:
    """Structure only: scalars as the words that BaseLoader keeps."""
    if isinstance(value, dict):
        return {key: _as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return "" if value in (None, "~") else str(value).lstrip("-+")
