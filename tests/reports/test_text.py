"""Text that is safe to print: nothing in it can move a cursor, and what is printable stays."""

from hypothesis import given
from hypothesis import strategies as st

from lora_cli.text import safe


@given(st.text())
def test_safe_text_is_printable_and_on_one_line(text: str) -> None:
    assert safe(text).isprintable()


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\u00a0")))
def test_printable_text_stays_as_it_is(text: str) -> None:
    printable = "".join(char for char in text if char.isprintable())

    assert safe(printable) == printable
