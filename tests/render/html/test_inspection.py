"""The page of ``inspect``: every fact is on it, nothing hostile is markup, and all can read it, by hand or in print."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_cli.cli.main import main
from lora_cli.core.spectrum import Spectrum
from lora_cli.render.engine_flags import costs
from lora_cli.render.html.inspection import render_inspections
from tests.browser import DESK, PHONE, browsing, opened
from tests.conftest import ROOT
from tests.render.html.test_page import HOSTILE, Reader
from tests.render.reports import everything
from tests.render.test_inspection import described, flags
from tests.render.test_spectrum import valued

QUICKSTART = ROOT / "manifests" / "quickstart.yaml"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the quickstart's adapters and the flags that serve them, as the command writes it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    asked = ["inspect", "-f", str(QUICKSTART), "--engine-args", "vllm", "--format", "html", "-o", str(path)]
    assert main(asked) == 0
    return path


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an adapter's spectrum, and of how it differs from another."""
    path = tmp_path_factory.mktemp("page") / "numbers.html"
    pirate, zubrowka = (str(QUICKSTART.with_suffix("") / name) for name in ("pirate", "zubrowka"))
    assert main(["inspect", pirate, "--spectrum", "--diff", zubrowka, "--format", "html", "-o", str(path)]) == 0
    return path


def test_it_has_the_verdict_the_modules_the_memory_and_where_each_is_from(file: Path) -> None:
    text = " ".join(Reader(file.read_text()).text.split())
    for said in (
        "3 LoRA adapters",
        "header ok",
        "vLLM 0.33: serves wrong",
        "error LC311",
        "rank_pattern, alpha_pattern",
        "model.layers.0.mlp.down_proj",
        "--max-lora-rank 8",
        "570.8 KiB for its own modules",
        "PEFT0.21.2",
        "adapter_model.safetensors",
    ):
        assert said in text


def test_it_has_the_spectrum_as_a_heat_map_and_how_another_differs(numbers: Path) -> None:
    text = " ".join(Reader(numbers.read_text()).text.split())
    for said in (
        "norm of s * B @ A",
        "layerq_projv_proj05.261.92",
        "289.605.792910.66.84",
        "effective rank 2.7 of 4 (median)",
        "unrelatedthe updates have a cosine of 0.0028",
        "alpha_patternchanges the scale",
        "60 modules not equal",
    ):
        assert said in text
    assert numbers.read_text().count('style="background:rgb(') == 60


def test_a_heat_map_is_read_on_a_phone_and_in_the_dark_too(browser: Any, numbers: Path) -> None:
    for dark in (False, True):
        with opened(browser, numbers, PHONE, dark=dark) as shown:
            assert shown.overflow() <= 0
            assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()


def test_values_that_are_not_here_are_told_with_what_to_do() -> None:
    spectrum = Spectrum(unread="the weights are at their origin", hint="fetch it first")
    text = Reader(render_inspections([(replace(everything().checked[0], spectrum=spectrum), described())])).text
    assert "none: the weights are at their origin" in text
    assert "hint: fetch it first" in text


def test_all_that_is_reckoned_of_flags_is_on_it() -> None:
    text = Reader(render_inspections([], flags())).text
    assert all(value in text for _, value in costs(flags()))


def test_an_adapter_that_cannot_be_read_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    here = str(ROOT / "manifests" / "quickstart" / "pirate")
    assert main(["inspect", str(tmp_path / "empty"), str(tmp_path / "none"), here, "--format", "html"]) == 3
    text = Reader(capsys.readouterr().out).text
    assert "not read" in text
    assert "450.0 KiB for its own modules" in text


@pytest.mark.parametrize("word", [HOSTILE, "\udc80", "`"])
def test_no_word_of_an_adapter_is_markup(word: str) -> None:
    def elements(said: str) -> list[str]:
        checked = [replace(one, name=said) for one in everything().checked]
        checked.append(valued(checked[0], said))
        text = render_inspections([(one, described(said)) for one in checked], flags(said))
        return Reader(text.encode("utf-8", "backslashreplace").decode()).names

    # Numbers and dots stay: a path is laid out by them.
    assert elements(word) == elements(re.sub(r"[^a-z0-9.]", "x", word))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_it_fits_loads_nothing_and_can_be_read(size: tuple[int, int], dark: bool, browser: Any, file: Path) -> None:
    with opened(browser, file, size, dark=dark) as shown:
        shown.page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert shown.overflow() <= 0
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        assert (shown.asked, shown.told) == ([], [])


def test_each_adapter_is_reached_by_keyboard_from_the_top(browser: Any, file: Path) -> None:
    with opened(browser, file, PHONE) as shown:
        names = [name for name, _ in shown.focused_by_tab()]
        assert names.count("A") == 3
        assert names.count("SUMMARY") >= 6
        shown.page.focus("a")
        shown.page.keyboard.press("Enter")
        assert shown.page.evaluate("() => location.hash") == "#adapter-1"


def test_it_prints(browser: Any, file: Path) -> None:
    with opened(browser, file) as shown:
        shown.page.emulate_media(media="print")
        assert shown.contrasts()[0][0] >= 4.5, shown.contrasts()
        assert len(shown.page.pdf(format="A4")) > 10_000
