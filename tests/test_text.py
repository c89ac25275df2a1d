"""Wording: counts, sizes and names as people read them."""

import pytest

from lora_cli.text import cut, duration, milliseconds, names, quoted, shown, size


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.00"), (0.314, "0.31"), (12.34, "12.3"), (1830.2, "1830")])
def test_milliseconds_have_about_three_digits(value: float, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")])
def test_sizes_are_in_powers_of_1024(value: int, text: str) -> None:
    assert size(value) == text


def test_a_list_names_the_first_and_counts_the_rest() -> None:
    assert names(["a", "b", "c"]) == "a, b, c"
    assert names(["a" * 20, "b", "c", "d"], 2, 9) == "aaaa…aaaa, b and 2 more"


@pytest.mark.parametrize(("width", "text"), [(9, "abcdefghi"), (8, "abcd…ghi"), (3, "a…i"), (1, "…")])
def test_the_middle_of_a_long_name_goes(width: int, text: str) -> None:
    assert cut("abcdefghi", width) == text


def test_a_value_is_shown_as_json_or_as_a_person_wrote_it() -> None:
    assert (shown({"a": [None, True]}), quoted("x")) == ('{"a": [null, true]}', "'x'")
    assert (shown(list(range(100)), 10), quoted("x" * 90, 10)) == ("[0, 1, 2,…", "'xxxxxx...")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")]
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
