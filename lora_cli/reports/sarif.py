"""SARIF 2.1.0 (OASIS, errata 01): what code scanning reads.

A finding is a result, what a rule could not look at and what could not be read are notifications of the run: an adapter
gets no alert because it was not checked. What code scanning takes at most is kept to. The place of a finding is that
of GitHub's annotations, too.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from lora_cli.adapter.config import CONFIG_CAP
from lora_cli.checks.check import CHECKS, Check
from lora_cli.finding import Finding, Location, Problem, Severity
from lora_cli.json_schema import to_json
from lora_cli.judging.result import LOCAL, Naming, Report, Result, below, inside, unpinned
from lora_cli.reports.words import without_markup
from lora_cli.text import safe
from lora_cli.version import __version__

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 25_000
"""The most results that GitHub accepts in a run."""

MAX_LENGTH = 1024
"""The most characters of a rule's descriptions that GitHub shows."""

MAX_MESSAGE = 4000
ROOT = "%SRCROOT%"
PROBLEM = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "recommendation"}


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a finding for tools that open files: ``below`` the report's folder, ``elsewhere``, or remote.

    A remote ``path`` is the reference with its scheme as the first folder. ``line`` is 0 if it is unknown.
    """

    path: str
    kind: Literal["below", "elsewhere", "remote"]
    line: int = 0


def place_of(naming: Naming, one: Result, at: Location) -> Place:
    """The place of ``at`` of an adapter: its file if it is below ``root``, else the manifest's line."""
    root = naming.root or naming.directory
    folder, file = inside(one.source, root), at.file
    if folder is not None:
        path = _joined(folder, file)
        return Place(path, "below", _line_of(root / path, at.field) if file.endswith(".json") else 0)
    manifest, _, line = naming.manifest.get(one.name, "").rpartition(":")
    if manifest and (at_root := below(str(naming.directory / manifest), root)) is not None:
        return Place(at_root, "below", int(line))
    scheme, _, address = unpinned(one.source).rpartition("://")
    if scheme == "file":
        return Place(_joined(unquote(address), file), "elsewhere")
    return Place(_joined(posixpath.join(scheme, address), file), "remote")


def _line_of(path: Path, field: str) -> int:
    """The line of a JSON file with the first name of ``field`` as a key; 1 if there is none."""
    key = re.match(r"\w*", field)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            text = stream.read(CONFIG_CAP) or b""
    except OSError:
        return 1
    found = re.search(rb'"%b"\s*:' % key[0].encode(), text) if key and key[0] else None
    return text.count(b"\n", 0, found.start()) + 1 if found else 1


def _joined(folder: str, file: str) -> str:
    """A file's path; for one that leads out of its folder, the folder."""
    inner = posixpath.normpath(posixpath.join("/", file)).lstrip("/")
    return folder if inner != posixpath.normpath(file) else posixpath.normpath(posixpath.join(folder, inner))


def render_report(report: Report) -> str:
    """The log of one run, the worst results first."""
    found = sorted(report.found(), key=lambda pair: -pair[1].severity)
    reported = {one.code for _, one in found} | {check.code for one in report.adapters for check in one.skipped}
    rules = [rule for rule in CHECKS if rule.code in reported]
    run = {
        "tool": {"driver": {"name": "lora-cli", "version": __version__, "rules": [_rule(rule) for rule in rules]}},
        "invocations": [
            {
                "executionSuccessful": not any(one.error is not None for one in report.adapters),
                "exitCode": report.exit_code,
                "toolExecutionNotifications": list(_notifications(report, len(found))),
            }
        ],
        "originalUriBaseIds": {ROOT: {"description": {"text": "the folder that lora-cli ran in"}}},
        "columnKind": "unicodeCodePoints",
        "results": list(_results(report, found[:MAX_RESULTS], [rule.code for rule in rules])),
    }
    return to_json({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule(rule: Check) -> dict[str, Any]:
    summary, whole = without_markup(rule.summary), without_markup(rule.documentation)
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": summary[:MAX_LENGTH]},
        "fullDescription": {"text": whole.replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")[:MAX_LENGTH]},
        "help": {"text": whole, "markdown": f"**{rule.code} {rule.name}**\n\n{rule.documentation.replace('``', '`')}"},
        "defaultConfiguration": {"level": str(rule.severity)},
        "properties": {"tags": ["lora", rule.name], "problem.severity": PROBLEM[rule.severity]},
    }


def _results(report: Report, found: Iterable[tuple[Result, Finding]], codes: Sequence[str]) -> Iterator[dict[str, Any]]:
    times: Counter[str] = Counter()
    for one, finding in found:
        problem, accepted, fingerprint = finding.problem, finding.accepted, finding.fingerprint or ""
        properties = {"adapter": report.naming.identity(one), "hint": problem.hint}
        if one.revision is not None and not one.source.startswith(LOCAL):
            properties |= {"source": one.source, "revision": one.revision}
        if one.digest is not None:
            properties["digest"] = one.digest
        result: dict[str, Any] = {
            "ruleId": finding.code,
            "level": str(finding.severity),
            **_message_and_location(report, one, problem),
            "properties": properties,
        }
        if accepted is not None and accepted.reason:
            why = safe(accepted.reason)
            result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": why}]
        if report.baseline:
            result["baselineState"] = "unchanged" if accepted is not None else "new"
        if finding.code in codes:
            result["ruleIndex"] = codes.index(finding.code)
        times[fingerprint] += 1
        # GitHub identifies alerts by the second one, and without it would hash a line of the weights.
        once = f"{fingerprint}:{times[fingerprint]}"
        result["partialFingerprints"] = {"loraCliFinding/v1": once, "primaryLocationLineHash": once}
        yield result


def _message_and_location(report: Report, one: Result, problem: Problem) -> dict[str, Any]:
    """A message about an adapter, and its location.

    What is remote has an address without its scheme: of a run with any but ``file`` GitHub takes nothing at all.
    """
    at, identity = problem.at, report.naming.identity(one)
    place = place_of(report.naming, one, at)
    path = quote(place.path.encode(errors="surrogatepass"))
    artifact = {"uri": f"file://{path}"} if place.kind == "elsewhere" else {"uri": path, "uriBaseId": ROOT}
    logical = {
        "name": at.field or at.file or one.name,
        "fullyQualifiedName": "/".join(filter(None, (identity, at.file, at.field))),
        "kind": "property" if at.file.endswith(".json") else "module",
    }
    physical = {"artifactLocation": artifact, "region": {"startLine": place.line or 1}}
    return {
        "message": {"text": _message(f"{identity}: {problem.message}", problem.hint)},
        "locations": [{"physicalLocation": physical, "logicalLocations": [logical]}],
    }


def _notifications(report: Report, results: int) -> Iterator[dict[str, Any]]:
    """Notifications of unreadable adapters and skipped checks, and the notices of the run."""

    def about(one: Result, level: str, name: str, message: str, hint: str = "") -> dict[str, Any]:
        problem = _message_and_location(report, one, Problem(message, hint=hint))
        return {"level": level, "descriptor": {"id": name}, **problem}

    for one in report.adapters:
        if one.error is not None:
            yield about(one, "error", "not-read", one.error.message, one.error.hint)
    for one in report.adapters:
        yield from (about(one, "warning", "unchecked", f"unchecked: {reason}") for reason in one.unchecked)
        for skipped in one.skipped:
            note = about(one, "note", "not-checked", f"not checked: {skipped.reason}")
            yield note | {"associatedRule": {"id": skipped.code}}
    if report.error is not None:
        text = _message(report.error.message, report.error.hint)
        yield {"level": "error", "descriptor": {"id": "lock"}, "message": {"text": text}}
    notices = list(report.notices)
    if results > MAX_RESULTS:
        notices.append(f"{results - MAX_RESULTS} more results are left out: a run may have {MAX_RESULTS}")
    for notice in notices:
        yield {"level": "warning", "descriptor": {"id": "run"}, "message": {"text": _message(notice)}}


def _message(text: str, hint: str = "") -> str:
    """Plain text of bounded length, with links, placeholders and invisible characters escaped (SARIF 3.11)."""
    lines = safe(text) + (f"\nHint: {safe(hint)}" if hint else "")
    if len(lines) > MAX_MESSAGE:
        lines = lines[: MAX_MESSAGE - 1] + "…"
    parts = lines.split("]")
    linked = [part.replace("[", r"\[") if after.startswith("(") else part for part, after in pairwise(parts)]
    lines = "]".join([*linked, parts[-1]])
    return re.sub(r"\{(\d+)\}", r"{{\1}}", lines)
