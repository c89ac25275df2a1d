"""Plain text: nothing in it can move a cursor, nothing worth copying is cut."""

import textwrap

from hypothesis import given
from hypothesis import strategies as st

from lora_cli.core.text import safe
from lora_cli.render.text import NARROWEST, columns, pairs, wrap


@given(st.text())
def test_safe_text_is_printable_and_on_one_line(text: str) -> None:
    assert safe(text).isprintable()


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\u00a0")))
def test_printable_text_stays_as_it_is(text: str) -> None:
    printable = "".join(char for char in text if char.isprintable())

    assert safe(printable) == printable


def test_a_long_name_stays_whole() -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

    assert name in "\n".join(wrap(f"the tensor {name} is odd", 40))


@given(st.lists(st.text(alphabet="abc ", max_size=20), max_size=20), st.integers(24, 100))
def test_lines_of_short_words_are_never_wider_than_asked(words: list[str], width: int) -> None:
    assert all(len(line) <= width for line in wrap(" ".join(words), width, "  "))


def test_labelled_values_line_up_and_empty_ones_are_left_out() -> None:
    rows: list[tuple[str, object]] = [("rank", 4), ("task", ""), ("dtype", "BF16"), ("slot", None)]

    assert pairs(rows, 80) == ["  rank   4", "  dtype  BF16"]


def test_a_column_is_as_wide_as_its_widest_cell() -> None:
    assert columns(("name", "n"), [("a", 10), ("longer", 2)]) == ["name     n", "a       10", "longer   2"]


@given(
    st.text(st.sampled_from("ab-\t\u3000   "), max_size=90),
    st.integers(1, 60),
    st.sampled_from(["", "    "]),
    st.sampled_from([None, "", "  hint: "]),
)
def test_lines_break_where_the_standard_library_breaks_them(
    text: str, width: int, indent: str, first: str | None
) -> None:
    standard = textwrap.wrap(
        safe(text),
        max(width, NARROWEST),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    assert wrap(text, width, indent, first) == standard
