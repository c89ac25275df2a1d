"""Plots in characters."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

from lora_cli.render.plots import COLOURS, bars, distribution, series_letters, sparklines
from lora_cli.render.terminal import rendered


def lines_of(parts: Iterable[RenderableType], width: int, *, colour: bool = False) -> list[str]:
    return rendered(parts, width, colour=colour).splitlines()


def test_bars_are_as_long_as_their_values() -> None:
    lines = lines_of(bars([("lru", 8.0, "8.0"), ("lfu", 4.0, "4.0"), ("none", 0.0, "0")], 40), 40)
    assert [line.count("█") for line in lines] == [29, 14, 0]
    assert lines_of(bars([("lru", 1.0, "1")], 20, plain=True), 20) == ["lru  1  ############"]


def test_a_course_goes_up_and_down_over_one_scale() -> None:
    lines = lines_of(sparklines({"lru": (0.0, 0.5, 1.0), "lfu": (1.0, 1.0, 0.0)}, 60), 60)
    assert lines == ["lru  0.000 ▁▅█ 1.000", "lfu  1.000 ██▁ 0.000"]
    assert lines_of(sparklines({"lru": (0.0, 0.5, 1.0)}, 60, plain=True), 60) == ["lru  0.000 _=# 1.000"]


def test_a_distribution_rises_from_left_to_right() -> None:
    lines = lines_of(distribution({"lru": (1.0, 10.0, 100.0)}, (0.5, 0.75, 1.0), 60), 60)
    assert lines[0] == " 100" + " " * 54 + "l"
    assert (lines[2][:4], lines[2][-1]) == ("  75", "l")
    assert lines[4].strip() == "50 " + "l" * 27
    assert lines[-2].split() == ["1", "ms", "10", "ms", "100", "ms"]
    assert lines[-1].strip() == "l lru"
    assert distribution({"lru": (0.0, 0.0)}, (0.5, 1.0), 60) == []


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((2.68, 168.0), "2 ms 10 ms 200 ms"), ((1380.0, 1381.0), "1000 ms 2000 ms"), ((5.0, 5.0), "5 ms 10 ms"),
        ((0.03, 2e6), "0.02 ms 1 ms 10 ms 1000 ms 2000000 ms"), ((130.0, 450.0), "100 ms 200 ms 500 ms"),
    ],
)  # fmt: skip
def test_an_axis_has_round_numbers(values: tuple[float, float], ticks: str) -> None:
    assert " ".join(lines_of(distribution({"lru": values}, (0.5, 1.0), 60), 60)[-2].split()) == ticks


def test_series_that_meet_are_all_seen_each_in_its_colour() -> None:
    same = dict.fromkeys(("lru", "lfu", "opt"), (1.0, 100.0))
    lines = lines_of(distribution(same, (0.5, 1.0), 60), 60)
    assert lines[4].strip().startswith("50 lfolfolfo")
    assert lines[-1].split() == ["l", "lru", "f", "lfu", "o", "opt"]
    coloured = rendered(distribution(same, (0.5, 1.0), 60), 60, colour=True)
    assert all(f"\x1b[{code}m{mark} {name}" in coloured for code, mark, name in ((36, "l", "lru"), (33, "f", "lfu")))
    assert len(set(COLOURS)) == len(COLOURS)


def test_each_name_has_a_letter_of_its_own() -> None:
    assert series_letters(["lru", "lfu", "fifo", "opt"]) == {"lru": "l", "lfu": "f", "fifo": "i", "opt": "o"}
    assert len(set(series_letters(["a"] * 1 + [f"a{n}" for n in range(20)]).values())) == 21


NAMES = st.text(min_size=1, max_size=12)
VALUES = st.lists(st.floats(0, 1e6), min_size=3, max_size=3).map(sorted)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.integers(40, 100))
def test_nothing_is_wider_than_it_may_be_and_no_name_moves_the_cursor(rows: dict[str, list[float]], width: int) -> None:
    parts = [*sparklines(rows, width), *distribution(rows, (0.5, 0.9, 1.0), width)[:-1]]
    parts += bars([(name, one[0], "1.0") for name, one in rows.items()], width)
    lines = lines_of(parts, width)
    assert len(lines) == len(parts)
    assert all(line.isprintable() for line in lines)
    if all(name.isascii() and name.isprintable() for name in rows):
        assert all(len(line) <= max(width, 44) for line in lines)
