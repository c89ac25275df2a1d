"""Pages: every fact is on them, nothing hostile is markup, and all can read them: on a phone, by keyboard, in print."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.live.requests import RequestResult
from lora_cli.bench.live.result import LiveRun, classify_tiers, live_report
from lora_cli.bench.report import BenchReport, describe_run
from lora_cli.bench.trace import Request, build_trace
from lora_cli.cli.main import main
from lora_cli.render.bench_summary import SIMULATION_HEADER
from lora_cli.render.charts import Axis, Chart
from lora_cli.render.html import render_bench, templates
from tests.browser import DESK, PHONE, Page, browsing, opened
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

HOSTILE = (
    "</title><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)> "
    "{{ 7 * 7 }} {% raw %} {# \" ' & \x1b[31m\u202e"
)
ELEMENTS = """
{% extends "base.html.j2" %}
{% from "macros.html.j2" import badge, bars, curves, facts, table %}
{% block body %}
{{ badge("refused", "error") }}{{ badge("ok", "good") }}{{ badge("look", "warning") }}{{ badge(title, "good") }}
{{ facts([("name", title), ("nothing", ""), (title, title)]) }}
{{ table(title, ["module", "why"] + columns, [[title, title] + columns], text=2) }}
{{ bars(title, [title, "", title], [(title, 0.5, [title])]) }}
{{ curves(chart) }}
{% endblock %}
"""
BEYOND_THE_SCREEN = """
selector => Array.from(document.querySelectorAll(selector)).filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.left < 0 || box.right > window.innerWidth);
}).length
"""
"""Parts of charts that are cut."""

COLOURS = """
() => Array.from(document.querySelectorAll(".curve, .bar")).map(one => {
  const style = getComputedStyle(one);
  return one.tagName === "SPAN" ? style.backgroundColor : style.stroke;
})
"""


class Reader(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def whole(name: str) -> str:
    """A page of every element, with ``name`` wherever a text can be."""
    values = {
        "title": name,
        "columns": [f"column {n}" for n in range(20)],
        "chart": Chart(name, Axis(name, 0, 1), Axis(name, 0, 1), {name: [(0, 0), (1, 1)]}),
    }
    return templates().from_string(ELEMENTS).render(values)


def live(name: str, said: str) -> BenchReport:
    """Two adapters, one of which fails."""
    answers = [
        RequestResult("a", at / 10, at / 10, at / 10, (at / 10 + 0.05, at / 10 + 0.08), 8, 2, tier, 1.0)
        for at, tier in enumerate(["disk", "cpu", "gpu", "gpu"])
    ]
    answers.append(RequestResult(name, 0.5, 0.5, 0.5, error=said))
    run = LiveRun(answers, *classify_tiers(answers))
    trace = build_trace([Request(0.5, name, 8, 2), Request(0.5, "a", 8, 2)])
    return live_report(*describe_run("live", trace, 0, {"x": said}, {"y": said}), name, {"ttft": 9.0}, run)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of each report, as the commands write them."""
    made = tmp_path_factory.mktemp("pages")
    (made / "elements.html").write_text(whole(HOSTILE), encoding="utf-8")
    (made / "live.html").write_text(render_bench(live("an-adapter-with-quite-a-long-name" * 3, "it broke")))

    small = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "60"]
    more = ["--max-loras", "12", "--eviction", "lru,fifo,lfu,opt", "--fail-if", "lru.hit_ratio>0"]
    assert main([*small, *more, "--format", "html", "-o", str(made / "simulation.html")]) == 1
    return made


@given(st.text(st.characters(codec=None), min_size=1, max_size=60))
def test_whatever_a_name_holds_it_is_text(name: str) -> None:
    plain, odd = Reader(whole("name")), Reader(whole(name))
    assert odd.names == plain.names
    assert not any(char in odd.text for char in "\x1b\u202e\x00")


def test_text_is_escaped_once_and_is_no_template() -> None:
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in Reader(whole(HOSTILE)).text


def test_no_template_can_declare_text_markup() -> None:
    made = templates()
    assert len(made.list_templates()) >= 4
    for name in made.list_templates():
        assert made.get_template(name)
        source = (ROOT / "lora_cli" / "render" / "templates" / name).read_text()
        assert not re.search(r"\bsafe\b|autoescape|Markup|<script|javascript:", source), name


def test_what_a_server_says_is_text() -> None:
    page = Reader(render_bench(live(HOSTILE, HOSTILE)))
    assert page.names == Reader(render_bench(live("x", "y"))).names
    for said in ("hot", "warm", "cold", "1 of its requests failed"):
        assert said in page.text


def test_a_simulation_has_the_policies_the_charts_and_the_definitions(folder: Path) -> None:
    page = Reader((folder / "simulation.html").read_text())
    assert page.names.count("figure") == 1
    failed = "failed lru.hit_ratio > 0 is true: the value is 0."
    for said in (failed, " ".join(SIMULATION_HEADER), "Hits over time", "lfu", "Belady's"):
        assert said in page.text


def read_by_all(shown: Page) -> None:
    """It fits, loads nothing, and can be read."""
    assert shown.overflow() <= 0
    assert shown.page.evaluate(BEYOND_THE_SCREEN, "figure, figure *") == 0
    assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
    assert (shown.asked, shown.told) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESK])
@pytest.mark.parametrize("name", ["elements", "simulation", "live"])
def test_it_fits_loads_nothing_and_can_be_read(
    name: str, size: tuple[int, int], dark: bool, browser: Any, folder: Path
) -> None:
    with opened(browser, folder / f"{name}.html", size, dark=dark) as shown:
        read_by_all(shown)


def test_curves_differ_in_colour_and_are_not_cut(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "simulation.html", PHONE) as shown:
        colours = shown.page.evaluate(COLOURS)
        assert len(colours) == 8  # four curves with their keys
        assert len(set(colours)) == 4
        assert "none" not in colours


def test_all_that_scrolls_is_reached_by_keyboard(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "elements.html", PHONE) as shown:
        reached = shown.focused_by_tab()
        assert [name for name, _ in reached] == ["DIV", "DIV"]
        assert all(label for _, label in reached)


@pytest.mark.parametrize("name", ["elements", "simulation"])
def test_it_prints(name: str, browser: Any, folder: Path) -> None:
    with opened(browser, folder / f"{name}.html", dark=True) as shown:
        shown.page.emulate_media(media="print")
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        pdf = shown.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert len(pdf) > 10_000
