"""One finding for one cause: findings that follow from another one are reported as a part of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lora_cli.core.engine_outcome import EngineOutcome
from lora_cli.core.finding import Finding
from lora_cli.core.json_schema import EXCLUDED


@dataclass(frozen=True, slots=True)
class Cause(Finding):
    """A finding with those that follow from it."""

    consequences: tuple[Finding, ...] = field(metadata=EXCLUDED)


def fold(findings: Iterable[Finding], engines: Sequence[EngineOutcome]) -> Iterator[Finding]:
    """The findings in their order, without those that follow from another one that counts.

    A cause becomes a ``Cause`` with the highest severity of all, and with what the engines do in its message. An
    accepted finding is no cause: what follows from it is reported, since only the finding itself was accepted.
    """
    findings = list(findings)
    first: dict[str, Finding] = {}
    for finding in findings:
        if finding.accepted is None:
            first.setdefault(finding.code, finding)
    following: dict[int, list[Finding]] = {}
    for finding in findings:
        if (cause := _root(finding, first)) is not finding:
            following.setdefault(id(cause), []).append(finding)
    for finding in findings:
        if _root(finding, first) is finding:
            yield _with(finding, following.get(id(finding), ()), engines)


def _root(finding: Finding, first: Mapping[str, Finding]) -> Finding:
    """The cause of the finding that has no cause itself, which may be the finding."""
    causes = finding.problem.causes if finding.accepted is None else ()
    cause = next((first[code] for code in causes if code in first), None)
    return finding if cause is None else _root(cause, first)


def _with(cause: Finding, consequences: Sequence[Finding], engines: Iterable[EngineOutcome]) -> Finding:
    if not consequences:
        return cause
    on = [f"{one} {one.outcome.phrase}" for one in engines if any(_is_on(one, each) for each in (cause, *consequences))]
    severity = max(one.severity for one in (cause, *consequences))
    problem = replace(cause.problem, message="; ".join((cause.problem.message, *on)))
    return Cause(cause.code, cause.name, severity, problem, cause.accepted, tuple(consequences))


def _is_on(engine: EngineOutcome, finding: Finding) -> bool:
    """Whether the finding is a reason for the engine's outcome."""
    if finding.problem.by:
        return finding.problem.message.startswith(f"{engine} ")
    return any(reason.code == finding.code for reason in engine.reasons)
