"""Pages: every fact is on them, nothing hostile is markup, and all can read them: on a phone, by keyboard, in print."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.live.requests import LoadResults, RequestResult
from lora_cli.bench.live.result import SeedRun, classify_tiers, live_report
from lora_cli.bench.report import BenchReport, describe_run
from lora_cli.bench.trace import Request, build_trace
from lora_cli.cli.main import main
from lora_cli.core.spectrum import Spectrum
from lora_cli.render.bench_summary import SIMULATION_HEADER
from lora_cli.render.charts import SHADES, Axis, Cell, Chart
from lora_cli.render.engine_flags import costs
from lora_cli.render.html import natural_sort_key, render_bench, render_inspections, templates
from lora_cli.render.inspect_report import inspect_report
from tests.browser import DESK, PHONE, Page, browsing, opened
from tests.conftest import ROOT
from tests.render.reports import all_checked
from tests.render.test_inspection import BASE, described, flags
from tests.render.test_spectrum import valued

pytestmark = pytest.mark.slow

QUICKSTART = ROOT / "manifests" / "quickstart.yaml"
HOSTILE = (
    "</title><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)> "
    "{{ 7 * 7 }} {% raw %} {# \" ' & \x1b[31m\u202e"
)
ELEMENTS = """
{% extends "base.html.j2" %}
{% from "macros.html.j2" import badge, bars, curves, facts, heat, hint, table %}
{% block body %}
{{ badge("refused", "error") }}{{ badge("ok", "good") }}{{ badge("look", "warning") }}{{ badge(title, "note") }}
{{ hint(title) }}
{{ facts([("name", title), ("nothing", ""), (title, title)]) }}
{{ table(title, ["module", "why"] + columns, [[title, title] + columns], text=2) }}
{{ bars(title, [title, "", title], [(title, 0.5, [title])], coloured=true) }}
{{ curves(chart) }}
{{ heat(title, columns[:10], [(title, cells)], 1.0) }}
<details><summary>{{ title }}</summary><p>{{ title }}</p></details>
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
        "cells": [*(Cell(n, f"{n}", f"{name} {n}") for n in range(SHADES)), None],
    }
    return templates().from_string(ELEMENTS).render(values)


def live(name: str, said: str) -> BenchReport:
    """Two seeds over two adapters, one of which fails now and then, beside the base."""
    runs = []
    for seed in (0, 1):
        answers = [
            RequestResult(
                "a", at / 10, at / 10, at / 10, (at / 10 + 0.05 + seed / 100, at / 10 + 0.08), 8, 2, tier, 1.0
            )
            for at, tier in enumerate(["disk", "cpu", "gpu", "gpu"])
        ]
        answers.append(RequestResult(name, 0.5, 0.5, 0.5, error=said))
        found, said_by = classify_tiers(answers, set())
        runs.append(SeedRun(seed, LoadResults(answers, [answers[0]]), found, said_by, control=answers[:2]))
    trace = build_trace([Request(0.5, name, 8, 2), Request(0.5, "a", 8, 2)])
    return live_report(*describe_run("live", trace, 0, {"x": said}, {"y": said}), name, {"ttft": 9.0}, runs)


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

    inspect = ["inspect", "--format", "html", "-o"]
    assert main([*inspect, str(made / "inspect.html"), "-f", str(QUICKSTART), "--engine-args", "vllm"]) == 1
    pirate, zubrowka = (str(QUICKSTART.with_suffix("") / name) for name in ("pirate", "zubrowka"))
    assert main([*inspect, str(made / "spectrum.html"), pirate, "--spectrum", "--diff", zubrowka]) == 0

    small = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "60", "--ranks", "8,64"]
    assert main([*small, "--format", "json", "-o", str(made / "old.json")]) == 0
    more = ["--max-loras", "12", "--baseline", str(made / "old.json"), "--fail-if", "lru.hit_ratio>0"]
    assert main([*small, *more, "--format", "html", "-o", str(made / "simulation.html")]) == 1
    return made


@given(st.text(st.characters(codec=None), min_size=1, max_size=60).filter(lambda name: "`" not in name))
def test_whatever_a_name_holds_it_is_text(name: str) -> None:
    plain, odd = Reader(whole("name")), Reader(whole(name))
    assert odd.names == plain.names
    assert not any(char in odd.text for char in "\x1b\u202e\x00")


def test_text_is_escaped_once_and_is_no_template() -> None:
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in Reader(whole(HOSTILE)).text


def test_no_template_can_declare_text_markup() -> None:
    made = templates()
    assert len(made.list_templates()) >= 5
    for name in made.list_templates():
        assert made.get_template(name)
        source = (ROOT / "lora_cli" / "render" / "templates" / name).read_text()
        assert not re.search(r"\bsafe\b|autoescape|Markup|<script|javascript:", source), name


@pytest.mark.parametrize("word", [HOSTILE, "\udc80", "`"])
def test_no_word_of_an_adapter_is_markup(word: str) -> None:
    def elements(said: str) -> list[str]:
        checked = [replace(one, name=said) for one in all_checked()]
        checked.append(valued(checked[0], said))
        text = render_inspections(
            inspect_report([(one, described(said)) for one in checked], BASE, flags(said)), checked
        )
        return Reader(text.encode("utf-8", "backslashreplace").decode()).names

    # Numbers and dots stay: a path is laid out by them.
    assert elements(word) == elements(re.sub(r"[^a-z0-9.]", "x", word))


def test_a_badge_counts_the_findings_of_the_worst_severity() -> None:
    page = render_inspections(inspect_report([(one, None) for one in all_checked()]), all_checked())
    badges = re.findall(r'<span class="badge (\w+)">(\d errors?|not read|header ok)<', page)
    assert badges[:4] == [("good", "header ok"), ("error", "3 errors"), ("error", "1 error"), ("good", "header ok")]


def test_what_a_server_says_is_text() -> None:
    page = Reader(render_bench(live(HOSTILE, HOSTILE)))
    assert page.names == Reader(render_bench(live("x", "y"))).names
    for said in ("hot", "warm", "cold", "base alone", "2 of its requests failed", "Student"):
        assert said in page.text


def test_every_shade_carries_its_text() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    style = (ROOT / "lora_cli" / "render" / "templates" / "style.css").read_text()
    shades = re.findall(r"\.h\d \{ background: #(\w{6}); color: #(\w{3}); }", style)
    assert len(shades) == SHADES
    for behind, ink in shades:
        low, high = sorted((luminance(behind), luminance(ink * 2)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def test_inspect_has_the_verdict_the_modules_the_memory_and_the_provenance(folder: Path) -> None:
    text = Reader((folder / "inspect.html").read_text()).text
    for said in (
        "3 LoRA adapters",
        "header ok",
        "vLLM 0.33: serves wrong",
        "error LC311",
        "rank_pattern, alpha_pattern",
        "model.layers.0.mlp.down_proj",
        "--max-lora-rank 8",
        "570.8 KiB at its own ranks",
        "PEFT 0.21.2",
        "adapter_model.safetensors",
    ):
        assert said in text


def test_modules_are_sorted_by_the_numbers_in_their_names(folder: Path) -> None:
    assert sorted(["l.10.q", "l.2.q", "l.02.q", "l.1" + "0" * 5000], key=natural_sort_key)[:3] == [
        "l.2.q",
        "l.02.q",
        "l.10.q",
    ]
    _, listed = Reader((folder / "spectrum.html").read_text()).text.split("Modules one by one")
    layers = [int(number) for number in re.findall(r"model\.layers\.(\d+)\.self_attn\.q_proj 4 ", listed)]
    assert layers == list(range(30))


def test_inspect_has_the_spectrum_as_a_heat_map_and_curves_and_how_another_differs(folder: Path) -> None:
    page = (folder / "spectrum.html").read_text()
    text = Reader(page).text
    for said in (
        "norm of s * B @ A",
        "layer q_proj v_proj 0 5.26 1.92",
        "28 9.60 5.79 29 10.6 6.84",
        "effective rank 2.7 of 4 (median)",
        "Singular values, largest first",
        "unrelated the updates have a cosine of 0.0028",
        "alpha_pattern changes the scale",
        "60 modules not equal",
    ):
        assert said in text
    assert len(re.findall(r'<td class="h\d"', page)) == 60
    assert page.count("<polyline") == 2
    assert '<span class="badge unrelated">' in page


def test_values_that_are_not_here_are_told_with_what_to_do() -> None:
    spectrum = Spectrum(None, None, unread="the weights are at their origin", hint="fetch it first")
    checked = replace(all_checked()[0], spectrum=spectrum)
    text = Reader(render_inspections(inspect_report([(checked, described())]), [checked])).text
    assert "none: the weights are at their origin" in text
    assert "hint: fetch it first" in text


def test_all_that_is_computed_of_flags_is_on_it() -> None:
    text = Reader(render_inspections(inspect_report([], BASE, flags()), [])).text
    assert all(value in text for _, value in costs(flags()))


def test_an_adapter_that_cannot_be_read_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    here = str(ROOT / "manifests" / "quickstart" / "pirate")
    assert main(["inspect", str(tmp_path / "empty"), str(tmp_path / "none"), here, "--format", "html"]) == 3
    text = Reader(capsys.readouterr().out).text
    assert "not read" in text
    assert "450.0 KiB at its own ranks" in text


def test_a_simulation_has_the_policies_the_charts_and_the_definitions(folder: Path) -> None:
    page = Reader((folder / "simulation.html").read_text())
    assert page.names.count("figure") == 2
    compared = ("failed lru.hit_ratio > 0 is true: the value is 0.", "Compared with the baseline", "better")
    for said in (*compared, " ".join(SIMULATION_HEADER), "Load time per request", "lfu", "Belady's"):
        assert said in page.text


def read_by_all(shown: Page) -> None:
    """It fits, loads nothing, and can be read."""
    shown.page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert shown.overflow() <= 0
    assert shown.page.evaluate(BEYOND_THE_SCREEN, "figure, figure *") == 0
    assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
    assert (shown.asked, shown.told) == ([], [])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESK])
@pytest.mark.parametrize("name", ["elements", "inspect", "spectrum", "simulation", "live"])
def test_it_fits_loads_nothing_and_can_be_read(
    name: str, size: tuple[int, int], dark: bool, browser: Any, folder: Path
) -> None:
    with opened(browser, folder / f"{name}.html", size, dark=dark) as shown:
        read_by_all(shown)


def test_curves_and_bars_differ_in_colour_and_are_not_cut(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "simulation.html", PHONE) as shown:
        assert shown.page.evaluate(BEYOND_THE_SCREEN, ".bar, td:has(.bar) + td") == 0
        colours = shown.page.evaluate(COLOURS)
        assert len(colours) == 15  # three bars, and six curves with their keys
        assert len(set(colours)) == 3
        assert "none" not in colours


def test_all_that_scrolls_or_unfolds_is_reached_by_keyboard(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "elements.html", PHONE) as shown:
        reached = shown.focused_by_tab()
        assert [name for name, _ in reached] == ["DIV", "DIV", "DIV", "SUMMARY"]
        assert all(label for name, label in reached if name == "DIV")
        shown.page.focus("summary")
        shown.page.keyboard.press("Enter")
        assert shown.page.evaluate("() => document.querySelector('details').open")


def test_each_adapter_is_reached_by_keyboard_from_the_top(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "inspect.html", PHONE) as shown:
        names = [name for name, _ in shown.focused_by_tab()]
        assert names.count("A") == 3
        assert names.count("SUMMARY") >= 6
        shown.page.focus("a")
        shown.page.keyboard.press("Enter")
        assert shown.page.evaluate("() => location.hash") == "#adapter-1"


@pytest.mark.parametrize("name", ["elements", "inspect"])
def test_it_prints(name: str, browser: Any, folder: Path) -> None:
    with opened(browser, folder / f"{name}.html", dark=True) as shown:
        shown.page.emulate_media(media="print")
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        pdf = shown.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert len(pdf) > 10_000
