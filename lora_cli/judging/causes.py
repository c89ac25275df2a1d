"""One finding for one cause: what follows from a finding is a part of it, and is accepted with it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lora_cli.finding import Accepted, EngineOutcome, Finding, Severity


def with_accepted(findings: Iterable[Finding], accepted: Callable[[Finding], Accepted | None]) -> tuple[Finding, ...]:
    """The findings with ``accepted`` asked for each that counts; what follows from an accepted one is accepted, too."""
    asked = [
        one if one.accepted is not None or one.severity is Severity.NOTE else replace(one, accepted=accepted(one))
        for one in findings
    ]
    first = first_of_each_rule(asked)
    return tuple(replace(one, accepted=one.accepted or root(one, first).accepted) for one in asked)


def fold(findings: Sequence[Finding], engines: Sequence[EngineOutcome]) -> Iterator[Finding]:
    """The findings in their order, without those that follow from another one that counts.

    A cause has the highest severity of all, and what the engines do in its message.
    """
    first, following = first_of_each_rule(findings), dict[int, list[Finding]]()
    for finding in findings:
        if (cause := root(finding, first)) is not finding:
            following.setdefault(id(cause), []).append(finding)
    for cause in findings:
        if root(cause, first) is not cause:
            continue
        if others := following.get(id(cause)):
            on = [one for one in engines if any(_is_on(one, each) for each in (cause, *others))]
            does = "".join(f"; {one} {one.outcome.phrase}" for one in on)
            problem = replace(cause.problem, message=f"{cause.problem.message}{does}")
            followed = tuple((one.code, one.problem.by) for one in others)
            severity = max(one.severity for one in (cause, *others))
            cause = replace(cause, severity=severity, problem=problem, consequences=followed)  # noqa: PLW2901
        yield cause


def first_of_each_rule(findings: Iterable[Finding]) -> Mapping[str, Finding]:
    """The first finding of each rule, one that counts where there is one: what other findings may follow from."""
    first: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda one: one.accepted is not None):
        first.setdefault(finding.code, finding)
    return first


def root(finding: Finding, first: Mapping[str, Finding]) -> Finding:
    """The cause of the finding that has no cause itself, which may be the finding."""
    cause = next((first[code] for code in finding.problem.causes if code in first), None)
    if cause is None or (finding.accepted is not None and cause.accepted is None):
        return finding
    return root(cause, first)


def _is_on(engine: EngineOutcome, finding: Finding) -> bool:
    """Whether the finding is a reason for the engine's outcome."""
    if finding.problem.by:
        return finding.problem.message.startswith(f"{engine} ")
    return any(reason.code == finding.code for reason in engine.reasons)
