"""What ``validate`` writes for machines: golden lines, the formats' own schemas, and hostile names."""

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
from lora_cli.json_schema import to_json
from lora_cli.judging.report import Report
from lora_cli.reports import github, junit, sarif
from tests.conftest import ROOT
from tests.reports.reports import HOSTILE, all_checked, checked, everything, finding, report
from tests.schemas import check_schema

GOLDEN = Path(__file__).parent / "golden" / "formats.txt"
"""``GOLDEN=write`` writes it: look at the difference before you commit it."""
JUNIT = xmlschema.XMLSchema(str(ROOT / "tests" / "data" / "junit-10.xsd"))
RENDERERS: tuple[Callable[[Report], str], ...] = (to_json, sarif.render_report, junit.render_report)


def hostile(name: str) -> Report:
    """A report whose every word from outside is ``name``."""
    one = checked(name, f"s3://acme/{name}", finding("LC302", name, name, name, name), skipped=name)
    return report(one, notices=(name,))


def run_of(said: Report) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(sarif.render_report(said))["runs"][0]
    return run


def lines(said: Report) -> Iterator[str]:
    """The formats, each of their parts on a line."""
    document = json.loads(to_json(said))
    yield from map(json.dumps, [*document.pop("adapters"), document])
    run = run_of(said)
    notes = run["invocations"][0].pop("toolExecutionNotifications")
    rules = run["tool"]["driver"].pop("rules")
    yield from map(json.dumps, [*rules, *run.pop("results"), *notes, run])
    root = ET.fromstring(junit.render_report(said))
    yield str(root.attrib)
    yield from (re.sub(r">\s+<", "><", ET.tostring(case, encoding="unicode")).strip() for case in root.iter("testcase"))
    yield github.render_report(said).rstrip()


def test_each_format_is_as_its_golden_lines_say() -> None:
    shown = "\n".join(lines(everything())).replace(f'"{__version__}"', '"VERSION"') + "\n"
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(shown, encoding="utf-8")
    assert shown == GOLDEN.read_text(encoding="utf-8")


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


def test_a_fingerprint_is_of_adapter_rule_and_place_and_of_no_machine() -> None:
    moved = (replace(one, source=one.source.replace("/srv/work/", "/home/ci/")) for one in all_checked())
    prints = [one["partialFingerprints"] for one in run_of(everything())["results"]]
    assert len({json.dumps(one) for one in prints}) == len(prints)
    assert [one["partialFingerprints"] for one in run_of(report(*moved, folder="/home/ci"))["results"]] == prints
    assert "/srv" not in sarif.render_report(everything())


def test_sarif_keeps_to_what_code_scanning_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MAX_RESULTS", 3)
    run = run_of(everything())
    assert [one["level"] for one in run["results"]] == ["error"] * 3
    said = [one["message"]["text"] for one in run["invocations"][0]["toolExecutionNotifications"]]
    assert "5 more results are left out: a run may have 3" in said
    for one in run_of(hostile("x" * 10_000))["results"]:
        assert len(one["message"]["text"]) == sarif.MAX_MESSAGE == 4000


def test_a_message_of_sarif_has_no_link_and_no_placeholder() -> None:
    messages = [one["message"]["text"] for one in run_of(hostile(HOSTILE))["results"]]
    assert all(r"\[y](http://evil) {{0}}" in one for one in messages)
    assert all(line.isprintable() for one in messages for line in one.split("\n"))


def test_junit_has_a_test_for_each_adapter_and_counts_what_refuses() -> None:
    root = ET.fromstring(junit.render_report(everything()))
    cases = {one.get("name"): one for one in root.iter("testcase")}
    assert len(cases) == len(everything().adapters)
    assert {name for name, one in cases.items() if one.find("failure") is not None} >= {"adapters/bad one"}
    assert {name for name, one in cases.items() if one.find("error") is not None} >= {"gone"}
    told = cases["tone"].findtext("system-out") or ""
    assert "(known: known.json)" in told
    assert "(known: meant so)" in told
    failure = cases["adapters/bad one"].find("failure")
    assert failure is not None
    assert re.match(r"LC\d{3} [\w-]+: .* \(and \d+ more\)", failure.get("message", ""))
    strict = junit.render_report(report(*all_checked(), fail_on=Severity.WARNING))
    assert strict.count("warning LC") == junit.render_report(everything()).count("warning LC")


def test_the_worst_of_each_adapter_is_annotated_first() -> None:
    many = [checked(f"a{i}", f"file:///srv/work/a{i}", *[finding("LC302", f"{j}") for j in range(9)]) for i in range(3)]
    shown = github.render_report(report(*many, notices=())).splitlines()
    first = [re.findall(r"\((a\d)\)::(\d)", line)[0] for line in shown[:4]]
    assert first == [("a0", "0"), ("a1", "0"), ("a2", "0"), ("a0", "1")]
    assert shown[-1].endswith("3 adapters: 3 failed; GitHub shows 10 errors per step, see the log for all")


def test_a_check_of_two_severities_is_told_once_for_each() -> None:
    warned = replace(finding("LC302", "y"), severity=Severity.WARNING)
    two = report(checked("a", "file:///a", finding("LC302", "x")), checked("b", "file:///b", warned), notices=())
    heads = [line.strip() for line in github.job_summary(two).splitlines() if "LC302" in line]
    assert heads == ["warning LC302 pair-incomplete: 1 adapter", "error LC302 pair-incomplete: 1 adapter"]


def runner(line: str) -> tuple[str, Mapping[str, str], str]:
    """What the runner of GitHub Actions makes of a line: command, properties and data, by its own rules."""
    match = re.match(r"\s*::([^ :]*)(?: (.*?))?::(.*)$", line, re.DOTALL)
    assert match is not None

    def decoded(text: str, *more: tuple[str, str]) -> str:
        for code, char in (("%0D", "\r"), ("%0A", "\n"), *more, ("%25", "%")):
            text = text.replace(code, char)
        return text

    listed = [pair.split("=", 1) for pair in (match[2] or "").split(",") if "=" in pair]
    return match[1], {key: decoded(value, ("%3A", ":"), ("%2C", ",")) for key, value in listed}, decoded(match[3])


def test_a_hostile_name_is_no_command_and_arrives_whole() -> None:
    read = [runner(line) for line in github.render_report(hostile(HOSTILE)).splitlines()]
    assert [command for command, *_ in read] == ["error", "warning", "notice"]
    _, properties, data = read[0]
    assert set(properties) == {"title"}
    assert "::set-output name=ok::1" in data
    assert "%0A,:" in properties["title"]


@pytest.mark.parametrize("name", [HOSTILE, "```", "a\n`````\n# b"])
def test_a_job_summary_is_one_block_of_code(name: str) -> None:
    head, _, fence, *body, end = github.job_summary(hostile(name)).strip().split("\n")
    assert head == "### lora-cli validate"
    assert fence == f"{end}text"
    assert set(end) == {"`"}
    assert not any(end in line for line in body)


def test_a_job_summary_that_is_too_long_says_so() -> None:
    said = report(*all_checked() * 12)
    whole = len(github.job_summary(said).encode())
    for limit in (whole + 100, whole - 1, 300, 60, 0):
        text = github.job_summary(said, limit)
        assert len(text.encode()) <= limit
        assert ("too long" in text, bool(text)) == (100 < limit < whole, limit > 100)


def test_no_machine_format_has_a_command_for_a_console() -> None:
    for render in RENDERERS:
        assert "##[" not in render(hostile(HOSTILE))
        assert not any(line.lstrip().startswith("::") for line in render(hostile(HOSTILE)).splitlines())
