"""The page that all reports are: nothing that an adapter says is markup, and it can be read by everybody."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.render.html.heat import SCALE, Cell, colour, heat, luminance
from lora_cli.render.html.markup import Markup, joined, tag
from lora_cli.render.html.page import badge, facts, folded, page, table
from tests.browser import DESK, PHONE, browsing, opened

HOSTILE = "</title><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)> \" ' & \x1b[31m\u202e"


class Reader(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def whole(name: str) -> str:
    cells = [Cell(step / 7, f"{step}", f"{name} {step}") for step in range(8)]
    return page(
        name,
        tag("h1", name),
        badge("refused", "error"),
        badge("ok", "good"),
        badge("look", "warning"),
        badge("by the way", "note"),
        facts([("name", name), ("nothing", ""), ("code", tag("code", name))]),
        table(
            name, ["module", "why", *(f"column {n}" for n in range(20))], [[name, name, *map(str, range(20))]], text=2
        ),
        heat(name, "layer", [f"c{n}" for n in range(9)], [(name, [*cells, None])]),
        folded(name, tag("p", name)),
    )


@given(st.text(st.characters(codec=None), min_size=1, max_size=60))
def test_whatever_a_name_holds_it_is_text(name: str) -> None:
    plain, odd = Reader(whole("name")), Reader(whole(name))
    assert odd.names == plain.names
    assert not any(char in odd.text for char in "\x1b\u202e\x00")


def test_text_is_escaped_once_and_markup_is_left(tmp_path: Path) -> None:
    assert tag("p", "a < b & c", tag("b", "&")) == "<p>a &lt; b &amp; c<b>&amp;</b></p>"
    assert tag("td", title='"x"', open_=None, data_x=3) == '<td title="&quot;x&quot;" data-x="3"></td>'
    assert joined(["<", [Markup("<br>"), [">"]]]) == "&lt;<br>&gt;"


def test_every_colour_of_the_scale_carries_its_text() -> None:
    for step in range(201):
        rgb = colour(step / 200)
        behind = luminance(rgb)
        ink = 0.0 if behind > 0.179 else 1.0
        assert (max(ink, behind) + 0.05) / (min(ink, behind) + 0.05) >= 4.5
    assert (colour(-1), colour(2)) == (SCALE[0], SCALE[-1])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(whole(HOSTILE), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_it_fits_loads_nothing_and_can_be_read(size: tuple[int, int], dark: bool, browser: Any, file: Path) -> None:
    with opened(browser, file, size, dark=dark) as shown:
        assert shown.overflow() <= 0
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        assert (shown.asked, shown.told) == ([], [])


def test_all_that_scrolls_or_unfolds_is_reached_by_keyboard(browser: Any, file: Path) -> None:
    with opened(browser, file, PHONE) as shown:
        reached = shown.focused_by_tab()
        assert [name for name, _ in reached] == ["DIV", "DIV", "SUMMARY"]
        assert all(label for name, label in reached if name == "DIV")
        shown.page.focus("summary")
        shown.page.keyboard.press("Enter")
        assert shown.page.evaluate("() => document.querySelector('details').open")


def test_it_prints(browser: Any, file: Path) -> None:
    with opened(browser, file) as shown:
        shown.page.emulate_media(media="print")
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        assert shown.page.pdf(format="A4").startswith(b"%PDF")
