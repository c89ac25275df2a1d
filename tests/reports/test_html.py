"""Pages: every fact is on them, nothing hostile is markup, and they load nothing."""

from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_cli.bench.client import Answer
from lora_cli.bench.measure import BenchReport, failures_of, metrics_of, with_tiers
from lora_cli.cli.main import main
from lora_cli.reports import bench
from lora_cli.reports.html import render_report
from tests.reports.reports import all_checked, checked, finding, report

HOSTILE = (
    "</title><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)> "
    "{{ 7 * 7 }} {% raw %} {# \" ' & \x1b[31m\u202e"
)


class Reader(HTMLParser):
    """The elements of a page, the addresses in it, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.loads, self.text = list[str](), list[str](), ""
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "srcset", "action", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def live(name: str) -> str:
    """The page of a run with two adapters, one of which is called so and fails, with the same words wherever it can."""
    answers = [
        Answer("a", at / 10, 0.0, at / 10, at / 10 + 0.05, at / 10 + 0.08, 8, 2, tier, 1.0)
        for at, tier in enumerate(["disk", "cpu", "gpu", "gpu"])
    ]
    told, how = with_tiers([*answers, Answer(name, 0.5, 0.0, 0.5, error=name)], None, None)
    measured = BenchReport(
        workload={"trace": name},
        metrics=metrics_of(told, {"ttft": 9.0}),
        server={"base": name},
        tiers_from=how,
        failures=failures_of(told),
    )
    return bench.render_report(measured)


def judged(name: str) -> str:
    """The page of a validation with every outcome, in which the words of one adapter are this name."""
    one = checked(name, f"s3://acme/{name}", finding("LC302", name, name, name, name), skipped=name)
    return render_report(report(*all_checked(), one, notices=(name,)))


PAGES: Mapping[str, Callable[[str], str]] = {"live": live, "judged": judged}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of two measurements."""
    made = tmp_path_factory.mktemp("pages")
    (made / "live.html").write_text(live("an-adapter-with-quite-a-long-name" * 3), encoding="utf-8")
    simulated = ["serve-bench", "--simulate", "--num-prompts", "2000", "--num-adapters", "60", "--max-cpu-loras", "40"]
    more = ["--max-loras", "4,12", "--fail-if", "lru_hit_ratio_4>0"]
    assert main([*simulated, *more, "--format", f"html={made / 'simulation.html'}"]) == 1
    return made


@pytest.mark.parametrize("page", PAGES.values())
@given(name=st.text(st.characters(codec=None), min_size=1, max_size=60))
@settings(max_examples=30)
def test_whatever_a_name_holds_it_is_text(page: Callable[[str], str], name: str) -> None:
    plain, odd = Reader(page("name")), Reader(page(name))
    assert (odd.names, odd.loads) == (plain.names, [])
    assert not any(char in odd.text for char in "\x1b\u202e\x00")


@pytest.mark.parametrize("page", PAGES.values())
def test_text_is_escaped_once_and_is_no_template(page: Callable[[str], str]) -> None:
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in Reader(page(HOSTILE)).text


def test_a_page_has_what_the_terminal_has(folder: Path) -> None:
    simulation, run = (Reader((folder / f"{name}.html").read_text()) for name in ("simulation", "live"))
    for said in (
        "failed lru_hit_ratio_4 > 0 is true: the value is 0.",
        "slots lru lfu belady lru disk",
        "belady, 12 slots",
    ):
        assert said in simulation.text
    for said in ("ms hot warm cold all", "ttft p50 50.0", "1 of its requests failed"):
        assert said in run.text
    shown = Reader(render_report(report(*all_checked()))).text
    for said in (
        "6 adapters: 2 ok, 1 accepted, 2 failed, 1 not read",
        "adapter result vLLM 0.33 size good ok ok - bad failed rejects -",
        "not read gone there is no gone hint check the path",
        "error LC302 pair-incomplete there is lora_A without its lora_B at adapter_model.safetensors: q_proj in bad",
        "known LC302, LC504 skipped the values are not read: LC501",
    ):
        assert said in shown
