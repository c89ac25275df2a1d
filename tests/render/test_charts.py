"""Charts of a page as data: where their points are, and which singular values and shades are drawn."""

from dataclasses import replace

import pytest

from lora_cli.render.bench_summary import SHARES
from lora_cli.render.charts import COLOURS, SHADES, Axis, Chart, distribution, over_time, shade, singular_values
from tests.render.test_spectrum import module


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


def test_singular_values_are_the_medians_of_a_kind() -> None:
    one = module("model.layers.0.q_proj", 5.0)
    modules = [replace(one, singular_values=values) for values in ((4.0, 2.0), (8.0, 1.0), (3.0, 1.0, 0.0))]
    zero, experts = replace(one, norm=0.0, singular_values=(0.0, 0.0)), replace(one, experts=8)
    chart = singular_values([("q_proj", [*modules, zero]), ("experts", [experts]), ("k_proj", [zero])])
    assert chart is not None
    assert chart.lines == {"q_proj": [(1, 4.0), (2, 1.0), (3, 0.0)]}
    assert (chart.x.high, chart.y.low, chart.y.high) == (3, 0.004, 4.0)
    many = singular_values([(f"kind {n}", modules) for n in range(COLOURS + 3)])
    assert many is not None
    assert len(many.lines) == COLOURS
    assert many.title.endswith("the first 8 of 11 kinds of modules")
    assert singular_values([("q_proj", [replace(one, singular_values=(3.0,))])]) is None
    assert singular_values([]) is None


def test_shades_go_from_little_to_much() -> None:
    assert [shade(level) for level in (-1, 0, 0.5, 1, 2)] == [0, 0, SHADES // 2, SHADES - 1, SHADES - 1]


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(100, [1, 2, 5, 10, 20, 50, 100]), (1_000, [1, 10, 100, 1_000]), (1.2, [1, 1.05, 1.1, 1.15, 1.2])],
)
def test_an_axis_of_few_powers_has_a_tick_at_2_and_5_too(high: float, ticks: list[float]) -> None:
    assert Axis("x", 1, high, logarithmic=True).ticks() == pytest.approx(ticks)
