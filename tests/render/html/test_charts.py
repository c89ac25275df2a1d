"""Charts on a page: where their points are, what is said of them, and how they look in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.render.html.charts import Axis, curves, hbars
from tests.browser import DESK, PHONE, browsing, opened
from tests.render.html.test_page import HOSTILE, Reader

COLOURS = """
() => Array.from(document.querySelectorAll(".curve, rect.bar")).map(one => {
  const style = getComputedStyle(one);
  return one.tagName === "rect" ? style.fill : style.stroke;
})
"""


def test_an_axis_has_round_ticks_within_it() -> None:
    assert Axis("x", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Axis("x", 3, 3).ticks() == [3]
    assert Axis("x", 2, 60, logarithmic=True).ticks() == pytest.approx([2, 5, 10, 20, 50])
    assert Axis("x", 0.5, 5_000, logarithmic=True).ticks() == pytest.approx([1, 10, 100, 1000])
    assert Axis("x", 1, 100, logarithmic=True).place(10) == pytest.approx(0.5)
    assert (Axis("x", 0, 4).place(-1), Axis("x", 0, 4).place(9), Axis("x", 4, 4).place(4)) == (0, 1, 0)


def test_points_are_where_their_values_are() -> None:
    text = curves("t", Axis("x", 0, 1), Axis("y", 0, 1), {"lru": [(0, 0), (1, 1)], "lfu": [(0, 1), (1, 0)]})
    first, second = re.findall(r'points="([^"]*)"', text)
    assert first == "56.0,260.0 708.0,12.0"
    assert second == "56.0,12.0 708.0,260.0"
    assert "<title>t: lru, lfu, by x and y</title>" in text


def test_bars_say_their_numbers() -> None:
    text = hbars("cost", [("lru", 8.0, "8.0 ms"), ("lfu", 4.0, "4.0 ms")])
    first, second = re.findall(r'class="bar c\d"|width="([^"]*)"', text)[::2]
    assert float(first) == 2 * float(second)
    assert "<title>cost: lru 8.0 ms, lfu 4.0 ms</title>" in text


def test_no_name_is_markup() -> None:
    def drawn(name: str) -> str:
        return curves(name, Axis(name, 0, 1), Axis(name, 0, 1), {name: [(0, 0)]}) + hbars(name, [(name, 1.0, name)])

    assert Reader(drawn(HOSTILE)).names == Reader(drawn("x")).names


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a simulation beside an older one, as the command writes it."""
    folder = tmp_path_factory.mktemp("page")
    small = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "60", "--ranks", "8,64"]
    assert main([*small, "--format", "json", "-o", str(folder / "old.json")]) == 0
    more = ["--max-loras", "12", "--baseline", str(folder / "old.json"), "--fail-if", "lru.hit_ratio>0"]
    assert main([*small, *more, "--format", "html", "-o", str(folder / "report.html")]) == 1
    return folder / "report.html"


def test_the_page_has_the_policies_the_charts_and_the_definitions(file: Path) -> None:
    page = Reader(file.read_text())
    text = " ".join(page.text.split())
    assert page.names.count("figure") == 3
    for said in ("failed", "lru.hit_ratio > 0: it is 0.", "Since the older result", "better", "adaptive", "Belady's"):
        assert said in text


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_the_page_fits_and_can_be_read(size: tuple[int, int], dark: bool, browser: Any, file: Path) -> None:
    with opened(browser, file, size, dark=dark) as shown:
        assert shown.overflow() <= 0
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        assert (shown.asked, shown.told) == ([], [])
        colours = shown.page.evaluate(COLOURS)
        assert len(colours) == 25  # five bars, and ten curves with their keys
        assert len(set(colours)) == 5
        assert "none" not in colours
