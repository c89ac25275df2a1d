"""Pages: every fact is on them, nothing hostile is markup, and all can read them: on a phone, by keyboard, in print."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.client import Answer
from lora_cli.bench.measure import BenchReport, failures_of, metrics_of, with_tiers
from lora_cli.cli.main import main
from lora_cli.reports.bench import render_report
from lora_cli.reports.html import templates
from tests.browser import DESK, PHONE, browsing, opened
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

HOSTILE = (
    "</title><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)> "
    "{{ 7 * 7 }} {% raw %} {# \" ' & \x1b[31m\u202e"
)


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


def live(name: str) -> str:
    """The page of a run with two adapters, one of which is called so and fails, with the same words wherever it can."""
    answers = [
        Answer("a", at / 10, 0.0, at / 10, at / 10 + 0.05, at / 10 + 0.08, 8, 2, tier, 1.0)
        for at, tier in enumerate(["disk", "cpu", "gpu", "gpu"])
    ]
    told, how = with_tiers([*answers, Answer(name, 0.5, 0.0, 0.5, error=name)], None, None)
    report = BenchReport(
        workload={"trace": name},
        metrics=metrics_of(told, {"ttft": 9.0}),
        server={"base": name},
        tiers_from=how,
        failures=failures_of(told),
    )
    return render_report(report)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of each report."""
    made = tmp_path_factory.mktemp("pages")
    (made / "hostile.html").write_text(live(HOSTILE), encoding="utf-8")
    (made / "live.html").write_text(live("an-adapter-with-quite-a-long-name" * 3))
    simulated = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "60", "--max-cpu-loras", "40"]
    more = ["--max-loras", "4,12", "--fail-if", "lru_hit_ratio_4>0"]
    assert main([*simulated, *more, "--format", "html", "-o", str(made / "simulation.html")]) == 1
    return made


@given(st.text(st.characters(codec=None), min_size=1, max_size=60))
def test_whatever_a_name_holds_it_is_text(name: str) -> None:
    plain, odd = Reader(live("name")), Reader(live(name))
    assert odd.names == plain.names
    assert not any(char in odd.text for char in "\x1b\u202e\x00")


def test_text_is_escaped_once_and_is_no_template() -> None:
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in Reader(live(HOSTILE)).text


def test_no_template_can_declare_text_markup() -> None:
    made = templates()
    assert len(made.list_templates()) >= 4
    for name in made.list_templates():
        assert made.get_template(name)
        source = (ROOT / "lora_cli" / "render" / "templates" / name).read_text()
        assert not re.search(r"\bsafe\b|autoescape|Markup|<script|javascript:", source), name


def test_a_page_has_what_the_terminal_has(folder: Path) -> None:
    simulation, run = (Reader((folder / f"{name}.html").read_text()) for name in ("simulation", "live"))
    for said in (
        "failed lru_hit_ratio_4 > 0 is true: the value is 0.",
        "slots lru lfu belady lru disk",
        "belady, 12 slots",
    ):
        assert said in simulation.text
    for said in ("ms hot warm cold all", "ttft p50 50.0", "1 of its requests failed", "Serving Benchmark Result"):
        assert said in run.text


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESK])
@pytest.mark.parametrize("name", ["hostile", "simulation", "live"])
def test_it_fits_loads_nothing_and_can_be_read(
    name: str, size: tuple[int, int], dark: bool, browser: Any, folder: Path
) -> None:
    with opened(browser, folder / f"{name}.html", size, dark=dark) as shown:
        assert shown.overflow() <= 0
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        assert (shown.asked, shown.told) == ([], [])


def test_all_that_scrolls_is_reached_by_keyboard(browser: Any, folder: Path) -> None:
    with opened(browser, folder / "simulation.html", PHONE) as shown:
        assert [(name, bool(label)) for name, label in shown.focused_by_tab()] == [("DIV", True)]


@pytest.mark.parametrize("name", ["live", "simulation"])
def test_it_prints(name: str, browser: Any, folder: Path) -> None:
    with opened(browser, folder / f"{name}.html", dark=True) as shown:
        shown.page.emulate_media(media="print")
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        pdf = shown.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert len(pdf) > 10_000
