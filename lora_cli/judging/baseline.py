"""Findings that a baseline accepts, and entries of baselines and policies that no longer apply."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lora_cli.documents.baseline import Baseline, Entry
from lora_cli.documents.policy import Suppression
from lora_cli.errors import UsageError
from lora_cli.finding import Accepted, Finding
from lora_cli.judging.causes import with_accepted
from lora_cli.judging.result import Result
from lora_cli.rules import UNREAD, find
from lora_cli.rules.rule import Rule


def check_rules(suppressions: Iterable[Suppression]) -> None:
    """Check that each suppression names an existing rule.

    Raises:
        UsageError: with file, line and the nearest rule.
    """
    for one in suppressions:
        try:
            find(one.rule)
        except UsageError as error:
            raise UsageError(f"{one.at}: {error.message}", hint=error.hint) from error


def apply_baseline(one: Result, adapter: str, baseline: Baseline | None, where: str) -> Result:
    """``one`` with the findings of the baseline accepted, each as often as the baseline has it. Notes are never in it.

    Without a baseline all findings that count are accepted: they are about to become the baseline ``where``. Those of
    an adapter that could not be read are not: its other findings are unknown.
    """
    if baseline is None and unread(one):
        return one
    left = baseline.of(adapter) if baseline is not None else None

    def accepted(finding: Finding) -> Accepted | None:
        if left is not None:
            left[entry_of(adapter, finding)] -= 1
        is_known = left is None or left[entry_of(adapter, finding)] >= 0
        return Accepted("baseline", where) if is_known else None

    return replace(one, findings=with_accepted(one.findings, accepted))


def unread(one: Result) -> list[str]:
    """The rules that report unreadable files of an adapter, without those that a policy accepts."""
    return sorted({finding.code for finding in one.findings if finding.code in UNREAD and finding.accepted is None})


def unread_notices(checked: Iterable[tuple[str, Result]], where: str) -> Iterator[str]:
    """A notice for each adapter that is not in a new baseline because it could not be read."""
    for adapter, one in checked:
        codes = unread(one)
        if one.error is not None or codes:
            why = f" ({', '.join(codes)})" if codes else ""
            yield f"{where}: {adapter} is not in the baseline: it could not be read{why}"


def entry_of(adapter: str, finding: Finding) -> Entry:
    """The entry of a finding in a baseline."""
    return Entry(adapter, finding.code, finding.problem.at.file, finding.problem.at.field)


def stale_entries(checked: Sequence[tuple[str, Result]], baseline: Baseline, codes: Iterable[str]) -> Iterator[str]:
    """A notice for each entry that is no longer found, if its rule was run on the adapter."""
    judged = set(codes)
    for adapter, one in checked:
        if one.error is not None:
            continue
        looked = judged - {skipped.code for skipped in one.skipped}
        found = Counter(entry_of(adapter, finding) for finding in one.findings)
        for entry, count in sorted(baseline.of(adapter).items()):
            if entry.code in looked and found[entry] < count:
                place = ": ".join(part for part in (entry.file, entry.field) if part)
                yield f"{baseline.where}: {entry.code} is no longer found in {adapter}{place and f' ({place})'}"


def unused_suppressions(
    checked: Sequence[tuple[str, Result]], suppressions: Iterable[Suppression], rules: Sequence[Rule]
) -> Iterator[str]:
    """A notice for each suppression that has expired, suppresses nothing, or is for another digest."""
    used = {finding.accepted.at for _, one in checked for finding in one.findings if finding.accepted is not None}
    for one in suppressions:
        if one.expired(time.strftime("%Y-%m-%d", time.gmtime())):
            yield f"{one.at}: the suppression of {one.rule} expired after {one.until}"
        elif one.at not in used and any(one.covers(rule.code, rule.name) for rule in rules):
            yield from _unused(one, checked)


def _unused(one: Suppression, checked: Sequence[tuple[str, Result]]) -> Iterator[str]:
    """A notice about the adapter with the digest; without one, about those in which the rule finds something."""
    holder = next(((adapter, that) for adapter, that in checked if that.digest == one.digest), None)
    if holder is not None:
        adapter, that = holder
        # A finding that another suppression accepts counts as well.
        left = [(rule.code, rule.name) for rule in that.skipped] + [(rule.code, rule.name) for rule in that.findings]
        if not any(one.covers(code, name) for code, name in left):
            yield f"{one.at}: unused suppression: {one.rule} finds nothing in {adapter}"
        return
    for adapter, that in checked:
        if any(one.covers(found.code, found.name) and found.accepted is None for found in that.findings):
            digest = that.digest or "unknown before it is fetched"
            yield f"{one.at}: {one.rule} is suppressed for another digest; the digest of {adapter} is {digest}"
