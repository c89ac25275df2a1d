"""Findings that a file accepts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from lora_cli.checks import UNREAD
from lora_cli.documents.baseline import AcceptedFinding
from lora_cli.finding import Accepted, Finding, Severity
from lora_cli.judging.result import Result


def apply_baseline(
    one: Result, fingerprint: Callable[[Finding], str], known: Mapping[str, AcceptedFinding] | None, where: str
) -> Result:
    """``one`` with the findings accepted that are ``known`` in the file ``where``, today; notes are never in it.

    Without a file all findings that count are accepted: they are about to be written to ``where``. Those of an adapter
    that could not be read are not: its other findings are unknown.
    """
    if known is None and unread(one):
        return one

    def accepted(finding: Finding) -> Accepted | None:
        if known is None:
            return Accepted(where)
        entry = known.get(fingerprint(finding))
        return None if entry is None or is_over(entry) else Accepted(where, entry.reason)

    asked = (
        each if each.accepted is not None or each.severity is Severity.NOTE else replace(each, accepted=accepted(each))
        for each in one.findings
    )
    return replace(one, findings=tuple(asked))


def is_over(entry: AcceptedFinding) -> bool:
    """Whether its last day, in UTC, is past."""
    return entry.until is not None and entry.until < datetime.now(UTC).date().isoformat()


def unread(one: Result) -> list[str]:
    """The rules that report unreadable files of an adapter."""
    return sorted({finding.code for finding in one.findings if finding.code in UNREAD})


def unread_notices(checked: Iterable[tuple[str, Result]], where: str) -> Iterator[str]:
    """A notice for each adapter whose findings were not written to ``where`` because it could not be read."""
    for adapter, one in checked:
        codes = unread(one)
        if one.error is not None or codes:
            why = f" ({', '.join(codes)})" if codes else ""
            yield f"{where}: {adapter} is not in the baseline: it could not be read{why}"
