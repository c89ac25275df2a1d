"""A fetch under way fits every terminal, and says the same in all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.core.text import duration
from lora_cli.render.human.meter import Meter, Row, render_meter

MIB = 1 << 20
ROWS = (Row("sql", 42 * MIB, 84 * MIB), Row("chat", 0, None), Row("a-name-that-is-rather-long-v2", 84 * MIB, 84 * MIB))
METER = Meter(ROWS, 12, 200, 1300 * MIB, 4200 * MIB, exact=False, per_s=85.3 * MIB)


def test_wide_there_are_bars_bytes_speed_and_what_is_left() -> None:
    assert render_meter(METER, 80, 10) == [
        "sql                           ━━━━━━━━━━━━─────────────     42.0 MiB of 84.0 MiB",
        "chat                          ─────────────────────────                      0 B",
        "a-name-that-is-rather-long-v2 ━━━━━━━━━━━━━━━━━━━━━━━━━     84.0 MiB of 84.0 MiB",
        "12 of 200 adapters, 1.3 GiB of ~4.1 GiB, 85.3 MiB/s, ~34 s left",
    ]


def test_on_a_narrow_terminal_the_bars_go_first_and_the_end_of_a_name_stays() -> None:
    lines = render_meter(METER, 50, 10)
    assert lines[0].split() == ["sql", "42.0", "MiB", "of", "84.0", "MiB"]
    assert lines[2].startswith("a-name-that-…ther-long-v2 ")
    assert lines[-1] == "12 of 200 adapters, 1.3 GiB of ~4.1 GiB"


def test_what_does_not_fit_is_counted() -> None:
    rows = tuple(Row(f"a{number}", 1, 2) for number in range(200))
    lines = render_meter(Meter(rows, 0, 500, 200, 400, exact=False, per_s=0), 60, 6)
    assert [line.split()[0] for line in lines] == ["a0", "a1", "a2", "a3", "and", "0"]
    assert lines[4] == "and 196 more"


def test_one_adapter_is_not_counted_and_ascii_is_enough_where_there_is_no_more() -> None:
    row, total = render_meter(Meter(ROWS[:1], 0, 1, 42 * MIB, 84 * MIB, exact=True, per_s=MIB), 70, 10, plain=True)
    assert "#####-----" in row
    assert total == "42.0 MiB of 84.0 MiB, 1.0 MiB/s, 42 s left"
    assert (row + total).isascii()


ROWS_OF_ALL_KINDS = st.builds(
    Row, st.text(min_size=1, max_size=200), st.integers(0, 2**50), st.none() | st.integers(0, 2**50)
)


@given(st.lists(ROWS_OF_ALL_KINDS, max_size=20), st.integers(1, 130), st.integers(1, 30), st.floats(0, 1e12))
def test_nothing_is_ever_wider_or_higher_than_the_terminal(
    rows: list[Row], width: int, height: int, per_s: float
) -> None:
    meter = Meter(tuple(rows), 3, 20, 2**40, 2**41, exact=True, per_s=per_s)
    lines = render_meter(meter, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")]
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
