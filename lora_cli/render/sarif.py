"""SARIF 2.1.0 (OASIS, errata 01): what code scanning reads.

A finding is a result, what a rule could not look at and what could not be read are notifications of the run: no alert
says of an adapter that something is wrong with it because nobody looked. What code scanning takes at most is kept to.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from lora_cli import __version__
from lora_cli.core.finding import Finding, Severity
from lora_cli.core.text import safe
from lora_cli.render.json import encoded
from lora_cli.render.text import unmarked
from lora_cli.rules.rule import Rule
from lora_cli.validation.report import LOCAL, FingerprintedFinding, Place, Report, Validated

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MOST_RESULTS = 25_000
"""GitHub refuses a run with more."""

LONGEST = 1024
"""Characters of a rule's descriptions that GitHub shows."""

LONGEST_MESSAGE = 4000
ROOT = "%SRCROOT%"
PROBLEM = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "recommendation"}


def render_report(report: Report) -> str:
    """The log of one run, the worst results first."""
    found = sorted(report.found(), key=lambda pair: -pair[1].finding.severity)
    rules = _used(report)
    driver = {"name": "lora-cli", "version": __version__, "rules": [_rule(rule) for rule in rules]}
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(report, len(found))],
        "originalUriBaseIds": {ROOT: {"description": {"text": "the folder that lora-cli ran in"}}},
        "columnKind": "unicodeCodePoints",
        "results": list(_results(report, found[:MOST_RESULTS], rules)),
    }
    return encoded({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _used(report: Report) -> list[Rule]:
    """The rules that are spoken of, in their own order."""
    said = {found.finding.code for _, found in report.found()}
    said |= {skipped.code for one in report.adapters for skipped in one.skipped}
    return [rule for rule in report.rules if rule.code in said]


def _rule(rule: Rule) -> dict[str, Any]:
    summary, whole = unmarked(rule.summary), unmarked(rule.documentation)
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": summary[:LONGEST]},
        "fullDescription": {"text": whole.replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")[:LONGEST]},
        "help": {"text": whole, "markdown": f"**{rule.code} {rule.name}**\n\n{rule.documentation.replace('``', '`')}"},
        "defaultConfiguration": {"level": str(rule.severity)},
        "properties": {"tags": ["lora", rule.name], "problem.severity": PROBLEM[rule.severity]},
    }


def _results(
    report: Report, found: Iterable[tuple[Validated, FingerprintedFinding]], rules: Iterable[Rule]
) -> Iterator[dict[str, Any]]:
    index = {rule.code: number for number, rule in enumerate(rules)}
    times: Counter[str] = Counter()
    for one, said in found:
        result, fingerprint = _result(report, one, said.finding), said.fingerprint
        if said.finding.code in index:
            result["ruleIndex"] = index[said.finding.code]
        times[fingerprint] += 1
        # GitHub tells alerts apart by the second one, and would make it of a line of the weights.
        once = f"{fingerprint}:{times[fingerprint]}"
        result["partialFingerprints"] = {"loraCliFinding/v1": once, "primaryLocationLineHash": once}
        yield result


def _result(report: Report, one: Validated, finding: Finding) -> dict[str, Any]:
    problem = finding.problem
    properties = {"adapter": report.naming.identity(one), "hint": problem.hint}
    if one.revision is not None and not one.source.startswith(LOCAL):
        properties |= {"source": one.source, "revision": one.revision}
    if one.digest is not None:
        properties["digest"] = one.digest
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": str(finding.severity),
        "message": {"text": _message(f"{report.naming.identity(one)}: {problem.message}", problem.hint)},
        "locations": [_location(report, one, problem.at.file, problem.at.field)],
        "properties": properties,
    }
    if (accepted := finding.accepted) is not None and accepted.by == "policy":
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": safe(accepted.reason)}]
    if report.baseline:
        result["baselineState"] = "unchanged" if accepted is not None and accepted.by == "baseline" else "new"
    return result


def _location(report: Report, one: Validated, file: str, where: str) -> dict[str, Any]:
    place = report.naming.place(one, file)
    physical: dict[str, Any] = {"artifactLocation": _artifact(place), "region": {"startLine": place.line or 1}}
    parts = [part for part in (report.naming.identity(one), file, where) if part]
    logical = {"fullyQualifiedName": "/".join(parts), "kind": "property" if file.endswith(".json") else "module"}
    return {"physicalLocation": physical, "logicalLocations": [{"name": where or file or one.name, **logical}]}


def _artifact(place: Place) -> dict[str, str]:
    """What is remote has an address without its scheme: of a run with any but ``file`` GitHub takes nothing at all."""
    path = quote(place.path.encode(errors="surrogatepass"))
    return {"uri": f"file://{path}"} if place.kind == "elsewhere" else {"uri": path, "uriBaseId": ROOT}


def _invocation(report: Report, results: int) -> dict[str, Any]:
    notifications = [*_unread(report), *_skipped(report), *_run(report, results)]
    return {
        "executionSuccessful": not any(one.error is not None for one in report.adapters),
        "exitCode": report.summary.exit_code,
        "toolExecutionNotifications": notifications,
    }


def _unread(report: Report) -> Iterator[dict[str, Any]]:
    for one in report.adapters:
        if one.error is not None:
            yield {
                "level": "error",
                "descriptor": {"id": "not-read"},
                "message": {"text": _message(f"{report.naming.identity(one)}: {one.error.message}", one.error.hint)},
                "locations": [_location(report, one, "", "")],
            }


def _skipped(report: Report) -> Iterator[dict[str, Any]]:
    for one in report.adapters:
        for skipped in one.skipped:
            yield {
                "level": "note",
                "descriptor": {"id": "not-checked"},
                "associatedRule": {"id": skipped.code},
                "message": {"text": _message(f"{report.naming.identity(one)}: not checked: {skipped.reason}")},
                "locations": [_location(report, one, "", "")],
            }


def _run(report: Report, results: int) -> Iterator[dict[str, Any]]:
    sentences: Iterable[str] = report.notices
    if results > MOST_RESULTS:
        sentences = [*sentences, f"{results - MOST_RESULTS} more results are left out: a run may have {MOST_RESULTS}"]
    for sentence in sentences:
        yield {"level": "warning", "descriptor": {"id": "run"}, "message": {"text": _message(sentence)}}


def _message(text: str, hint: str = "") -> str:
    """Plain text of a bounded length, in which nothing is a link, a placeholder or invisible (SARIF 3.11)."""
    lines = safe(text) + (f"\nHint: {safe(hint)}" if hint else "")
    if len(lines) > LONGEST_MESSAGE:
        lines = lines[: LONGEST_MESSAGE - 1] + "…"
    parts = lines.split("]")
    linked = [part.replace("[", r"\[") if after.startswith("(") else part for part, after in pairwise(parts)]
    lines = "]".join([*linked, parts[-1]])
    return re.sub(r"\{(\d+)\}", r"{{\1}}", lines)
