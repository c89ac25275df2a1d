"""What ``validate`` writes for machines: golden files, the formats' own schemas, and hostile names."""

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st
from sarif_kit.validate import validation_errors

from lora_cli import __version__
from lora_cli.finding import Severity
from lora_cli.judging.report import Report
from lora_cli.reports import github, junit, markdown, sarif
from lora_cli.reports.json import to_json
from lora_cli.reports.terminal import rendered
from lora_cli.reports.validate import human as validate_human
from tests.conftest import ROOT
from tests.reports.reports import HOSTILE, all_checked, checked, everything, finding, report
from tests.schemas import check_schema

GOLDEN = Path(__file__).parent / "golden"
"""``GOLDEN=write`` writes them anew: look at the difference before you commit it."""
JUNIT = xmlschema.XMLSchema(str(ROOT / "tests" / "data" / "junit-10.xsd"))


def human(report: Report) -> str:
    return rendered(validate_human(report), 80)


RENDERERS: dict[str, Callable[[Report], str]] = {
    "report.json": to_json,
    "report.sarif": sarif.render_report,
    "report.xml": junit.render_report,
    "report.github": github.render_report,
    "report.md": markdown.render_report,
    "report.txt": human,
    "quiet.txt": lambda report: rendered(validate_human(report, quiet=True), 80),
    "several.txt": lambda _: human(report(*all_checked()[:2], *all_checked()[3:])),
    "one.txt": lambda _: human(report(all_checked()[1])),
}


def hostile(name: str) -> Report:
    """A report whose every word from outside is ``name``."""
    one = checked(name, f"s3://acme/{name}", finding("LC302", name, name, name, name), skipped=name)
    return report(one, notices=(name,))


@pytest.mark.parametrize("file", RENDERERS)
def test_each_format_is_as_its_golden_file_says(file: str) -> None:
    text = RENDERERS[file](everything()).replace(f'"{__version__}"', '"VERSION"')

    if os.environ.get("GOLDEN") == "write":
        (GOLDEN / file).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("said", [everything(), report(), hostile(HOSTILE)])
def test_sarif_and_junit_and_json_are_valid_by_their_schemas(said: Report) -> None:
    assert validation_errors(json.loads(sarif.render_report(said))) == []
    JUNIT.validate(junit.render_report(said))
    check_schema(json.loads(to_json(said)))


@given(st.text(st.characters(codec=None), max_size=40))
@settings(max_examples=60)
def test_no_name_breaks_a_format(name: str) -> None:
    said = hostile(name)

    assert validation_errors(json.loads(sarif.render_report(said))) == []
    assert [one.get("name") for one in ET.fromstring(junit.render_report(said))] != []
    for line in github.render_report(said).splitlines():
        assert re.match(r"::(error|warning|notice) ", line)


def results(said: Report) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(sarif.render_report(said))["runs"][0]["results"]
    return listed


def test_a_fingerprint_is_of_adapter_rule_and_place_and_of_no_machine() -> None:
    moved = (replace(one, source=one.source.replace("/srv/work/", "/home/ci/")) for one in all_checked())
    elsewhere = report(*moved, folder="/home/ci")

    prints = [one["partialFingerprints"] for one in results(everything())]
    assert len({json.dumps(one) for one in prints}) == len(prints)
    assert [one["partialFingerprints"] for one in results(elsewhere)] == prints
    assert "/srv" not in sarif.render_report(everything())


def test_sarif_keeps_to_what_code_scanning_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MAX_RESULTS", 3)
    run = json.loads(sarif.render_report(everything()))["runs"][0]

    assert [one["level"] for one in run["results"]] == ["error"] * 3
    said = [one["message"]["text"] for one in run["invocations"][0]["toolExecutionNotifications"]]
    assert "5 more results are left out: a run may have 3" in said
    for one in results(hostile("x" * 10_000)):
        assert len(one["message"]["text"]) == sarif.MAX_MESSAGE == 4000


def test_junit_counts_what_refuses_and_says_why_a_case_is_skipped() -> None:
    suites = {one.get("name"): one for one in ET.fromstring(junit.render_report(everything()))}
    numbers = {
        name: [one.get(key) for key in ("tests", "failures", "errors", "skipped")] for name, one in suites.items()
    }

    assert numbers["adapters/bad one"] == ["6", "2", "0", "0"]
    assert numbers["tone"] == ["6", "0", "0", "2"]
    assert numbers["gone"] == ["1", "0", "1", "0"]
    assert [one.get("message") for one in suites["tone"].iter("skipped")] == [
        "known: known.json",
        "known: meant so",
    ]
    strict = junit.render_report(report(*all_checked(), fail_on=Severity.WARNING))
    assert ET.fromstring(strict).get("failures") == "4"


def test_the_worst_of_each_adapter_is_annotated_first() -> None:
    many = [checked(f"a{i}", f"file:///srv/work/a{i}", *[finding("LC302", f"{j}") for j in range(9)]) for i in range(3)]
    lines = github.render_report(report(*many, notices=())).splitlines()

    assert [re.findall(r"\((a\d)\)::(\d)", line)[0] for line in lines[:4]] == [
        ("a0", "0"), ("a1", "0"), ("a2", "0"), ("a0", "1"),
    ]  # fmt: skip
    assert lines[-1].endswith(
        "27 errors; no warnings; no skipped checks; GitHub shows 10 errors per step, see the log for all"
    )


def test_a_rule_of_two_severities_is_told_once_for_each() -> None:
    warned = replace(finding("LC302", "y"), severity=Severity.WARNING)
    two = report(
        checked("a", "file:///srv/a", finding("LC302", "x")), checked("b", "file:///srv/b", warned), notices=()
    )
    heads = [line.strip() for line in human(two).splitlines() if "LC302" in line]
    assert heads == [f"{word} LC302 pair-incomplete: 1 finding in 1 adapter" for word in ("error", "warning")]


def runner(line: str) -> tuple[str, Mapping[str, str], str] | None:
    """What the runner of GitHub Actions makes of a line: command, properties and data, by its own rules."""
    match = re.match(r"\s*::([^ :]*)(?: (.*?))?::(.*)$", line, re.DOTALL)
    if match is None:
        return None
    listed = [pair.split("=", 1) for pair in (match[2] or "").split(",") if "=" in pair]
    data = match[3]
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        data = data.replace(code, char)
    return match[1], {key: _property(value) for key, value in listed}, data


def _property(value: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        value = value.replace(code, char)
    return value


def test_a_hostile_name_is_no_command_and_arrives_whole() -> None:
    lines = github.render_report(hostile(HOSTILE)).splitlines()

    read = [runner(line) for line in lines]
    assert [one[0] for one in read if one] == ["error", "warning", "notice"]
    assert read[0] is not None
    assert set(read[0][1]) == {"file", "line", "title"} - {"file", "line"}
    assert "::set-output name=ok::1" in read[0][2]
    assert "%0A,:" in read[0][1]["title"]


def test_markdown_has_no_markup_but_its_own() -> None:
    text = markdown.render_report(hostile(HOSTILE))

    for made in ("<img", "[y](", "@octocat", "`x`", " #1"):
        assert made not in text
    row = next(line for line in text.splitlines() if line.startswith("| ❌"))
    assert row.count("|") == 7


def test_a_summary_that_is_too_long_says_so() -> None:
    said = report(*all_checked() * 12)
    whole = len(markdown.render_report(said).encode())

    for limit in (*range(whole - 400, whole, 13), whole - 1, whole, 5000, 60, 0):
        text = markdown.render_report(said, limit)
        assert len(text.encode()) <= limit
        assert ("This summary is truncated" in text) == (60 < limit < whole)


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from texts(child)


def test_a_message_of_sarif_has_no_link_and_no_placeholder() -> None:
    messages = [one["message"]["text"] for one in results(hostile(HOSTILE))]

    assert all(r"\[y](http://evil) {{0}}" in one for one in messages)
    assert all(line.isprintable() for one in messages for line in one.split("\n"))


def test_no_machine_format_has_a_command_for_a_console() -> None:
    for render in (to_json, sarif.render_report, junit.render_report, markdown.render_report):
        assert "##[" not in render(hostile(HOSTILE))
        assert not any(line.lstrip().startswith("::") for line in render(hostile(HOSTILE)).splitlines())
