"""Charts of a page as data: where their points are."""

import pytest

from lora_cli.render.bench_summary import SHARES
from lora_cli.render.charts import Axis, Chart, distribution, over_time


def test_an_axis_has_round_ticks_within_it() -> None:
    assert Axis("x", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis("x", 3, 3).ticks() == [3]
    assert Axis("x", 1, 4, whole=True).ticks() == [1, 2, 3, 4]
    assert Axis("x", 2, 60, logarithmic=True).ticks() == pytest.approx([2, 5, 10, 20, 50])
    assert Axis("x", 0.5, 5_000, logarithmic=True).ticks() == pytest.approx([1, 10, 100, 1000])
    assert Axis("x", 5.5, 9.5, logarithmic=True).ticks() == pytest.approx([6, 7, 8, 9])
    assert Axis("x", 1, 100, logarithmic=True).place(10) == pytest.approx(50)
    assert (Axis("x", 0, 4).place(-1), Axis("x", 0, 4).place(9), Axis("x", 4, 4).place(4)) == (0, 100, 0)


def test_points_are_where_their_values_are() -> None:
    chart = Chart("t", Axis("x", 0, 2), Axis("y", 0, 4), {"lru": [(0, 0), (1, 1)], "lfu": [(0, 4), (2, 0)]})
    assert (chart.points("lru"), chart.points("lfu")) == ("0,100 50,75", "0,0 100,100")


def test_a_distribution_is_of_what_takes_time() -> None:
    half = len(SHARES) // 2
    chart = distribution(
        "waits", "ms", {"lru": [0.0] * half + [10.0] * (len(SHARES) - half), "lfu": [1.0] * len(SHARES)}
    )
    assert chart is not None
    assert (chart.x.low, chart.x.high) == (1.0, 10.0)
    assert (chart.lines["lru"][0], chart.lines["lru"][-1]) == ((1.0, 0), (10.0, 1))
    assert distribution("waits", "ms", {"lru": [0.0] * len(SHARES)}) is None
    assert over_time({}) is None


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(100, [1, 2, 5, 10, 20, 50, 100]), (1_000, [1, 10, 100, 1_000]), (1.2, [1, 1.05, 1.1, 1.15, 1.2])],
)
def test_an_axis_of_few_powers_has_a_tick_at_2_and_5_too(high: float, ticks: list[float]) -> None:
    assert Axis("x", 1, high, logarithmic=True).ticks() == pytest.approx(ticks)
