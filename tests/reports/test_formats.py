"""What ``validate`` writes for machines: golden lines, the formats' own schemas, and hostile names."""

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
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
from lora_cli.judging.result import Report
from lora_cli.reports import github, junit, sarif
from tests.conftest import ROOT
from tests.reports.reports import HOSTILE, RULES, all_checked, checked, everything, finding, report
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


def test_each_format_is_as_its_golden_lines_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "CHECKS", RULES)
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
