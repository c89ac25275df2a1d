"""The page of ``serve-bench --url``: nothing that a server says is markup, and how it looks in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_cli.bench.live.answer import Answer
from lora_cli.bench.live.load import Course
from lora_cli.bench.live.numbers import Run
from lora_cli.bench.live.result import LiveRun, live_run
from lora_cli.bench.live.tiers import kinds
from lora_cli.bench.setting import setting_of
from lora_cli.bench.trace import Request, trace_of
from lora_cli.render.html.live import render_live
from tests.browser import DESK, PHONE, browsing, opened
from tests.render.html.test_page import HOSTILE, Reader


def live(name: str, said: str) -> LiveRun:
    """Two seeds over two adapters, one of which fails now and then, beside the base."""
    runs = []
    for seed in (0, 1):
        answers = [
            Answer("a", at / 10, at / 10, at / 10, (at / 10 + 0.05 + seed / 100, at / 10 + 0.08), 8, 2, tier, 1.0)
            for at, tier in enumerate(["disk", "cpu", "gpu", "gpu"])
        ]
        answers.append(Answer(name, 0.5, 0.5, 0.5, error=said))
        found, said_by = kinds(answers, set())
        runs.append(Run(seed, Course(answers, [answers[0]]), found, said_by, control=answers[:2]))
    trace = trace_of([Request(0.5, name, 8, 2), Request(0.5, "a", 8, 2)])
    return live_run(setting_of("live", trace, 0, {"x": said}, {"y": said}), said, name, 4, {"ttft": 9.0}, runs)


def test_what_a_server_says_is_text() -> None:
    page = Reader(render_live(live(HOSTILE, HOSTILE)))
    assert page.names == Reader(render_live(live("x", "y"))).names
    text = " ".join(page.text.split())
    for said in ("hot", "warm", "cold", "base alone", "2 of its requests failed", "Student"):
        assert said in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as running:
        yield running


@pytest.mark.parametrize(("size", "dark"), [(PHONE, True), (DESK, False)])
def test_the_page_fits_and_can_be_read(size: tuple[int, int], dark: bool, browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(render_live(live("an-adapter-with-quite-a-long-name" * 3, "it broke")))
    with opened(browser, file, size, dark=dark) as shown:
        assert shown.overflow() <= 0
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        assert (shown.asked, shown.told) == ([], [])
