"""Plots in characters."""

from hypothesis import given
from hypothesis import strategies as st

from lora_cli.render.human.plots import bars, courses, distribution, letters


def test_bars_are_as_long_as_their_values() -> None:
    lines = bars([("lru", 8.0, "8.0"), ("adaptive", 4.0, "4.0"), ("none", 0.0, "0")], 40)
    assert [line.count("█") for line in lines] == [25, 12, 0]
    assert bars([("lru", 1.0, "1")], 20, plain=True) == ["lru  1  ############"]


def test_a_course_goes_up_and_down_over_one_scale() -> None:
    lines = courses({"lru": (0.0, 0.5, 1.0), "lfu": (1.0, 1.0, 0.0)}, 60)
    assert lines == ["lru  0.000 ▁▅█ 1.000", "lfu  1.000 ██▁ 0.000"]
    assert courses({"lru": (0.0, 0.5, 1.0)}, 60, plain=True) == ["lru  0.000 _=# 1.000"]


def test_a_distribution_rises_from_left_to_right() -> None:
    lines = distribution({"lru": (1.0, 10.0, 100.0)}, (0.5, 0.75, 1.0), 60)
    assert lines[0] == " 100" + " " * 54 + "l"
    assert (lines[2][:4], lines[2][-1]) == ("  75", "l")
    assert lines[4].strip() == "50 " + "l" * 27
    assert lines[-2].split() == ["1", "ms", "100", "ms"]
    assert lines[-1].strip() == "l lru"
    assert distribution({"lru": (0.0, 0.0)}, (0.5, 1.0), 60) == []


def test_each_name_has_a_letter_of_its_own() -> None:
    assert letters(["lru", "lfu", "fifo", "opt"]) == {"lru": "l", "lfu": "f", "fifo": "i", "opt": "o"}
    assert len(set(letters(["a"] * 1 + [f"a{n}" for n in range(20)]).values())) == 21


NAMES = st.text(min_size=1, max_size=12)
VALUES = st.lists(st.floats(0, 1e6), min_size=3, max_size=3).map(sorted)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.integers(40, 100))
def test_nothing_is_wider_than_it_may_be_and_no_name_moves_the_cursor(rows: dict[str, list[float]], width: int) -> None:
    lines = courses(rows, width) + distribution(rows, (0.5, 0.9, 1.0), width)[:-1]
    lines += bars([(name, one[0], "1.0") for name, one in rows.items()], width)
    assert all("\n" not in line and "\x1b" not in line for line in lines)
    if all(name.isascii() and name.isprintable() for name in rows):
        assert all(len(line) <= max(width, 44) for line in lines)
