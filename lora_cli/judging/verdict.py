"""A parsed adapter × the terms of validation → its verdict, and the result for one adapter."""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.beside import Companions, read_companions
from lora_cli.base.base_model import BaseModel
from lora_cli.documents.model_card import Card
from lora_cli.errors import LoraCliError
from lora_cli.finding import (
    NO_BASE,
    NO_VALUES,
    Accepted,
    Deployment,
    EngineOutcome,
    Finding,
    Location,
    Problem,
    Severity,
    Skipped,
    Verdict,
)
from lora_cli.peft.patterns import TOO_SLOW, Budget, one_budget
from lora_cli.peft.targets import for_task, trained_bare
from lora_cli.refs.adapter_files import CONFIG
from lora_cli.refs.reference import WITH_REVISIONS
from lora_cli.refs.request import Request
from lora_cli.refs.snapshot import Revision, Snapshot
from lora_cli.rules import RULES, choose
from lora_cli.rules.base_model import fitting
from lora_cli.rules.config import not_lora, pattern_invalid
from lora_cli.rules.rule import Case, Evidence, Rule, run
from lora_cli.rules.target_module_matching import apply
from lora_cli.settings import Settings
from lora_cli.sources.files import Files

if TYPE_CHECKING:
    from lora_cli.adapter.values import TensorStats
    from lora_cli.engines import Profile
    from lora_cli.judging.base_model import Bases

ENGINE_RULES = "LC4"


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of validation, the same for all adapters of one run.

    ``base`` is the base model of all adapters; without it each is validated against its own by ``bases``, or none.
    Without ``values`` the tensors' values are not read. ``engines`` are the engines that will serve them, started as
    ``deployment`` says; without engines PEFT's behaviour counts, and of the deployment ``max_lora_rank``. With ``card``
    the model card is read. Without ``weights`` only the config is read. What rules of ``ignored`` find is not reported,
    nor what follows from it.
    """

    base: BaseModel | None = None
    bases: "Bases | None" = None
    values: bool = True
    rules: tuple[Rule, ...] = choose()
    engines: "tuple[Profile, ...]" = ()
    deployment: Deployment = field(default_factory=Deployment)
    card: bool = False
    weights: bool = True
    ignored: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for one adapter: its verdict, or the ``error`` why it could not be read.

    ``source`` is the canonical reference (or the text as given, if it is invalid); ``stage_ms`` maps resolve, read,
    values and rules to milliseconds. ``digest`` is the snapshot digest, if the cache, the lock or a policy has it.
    ``card`` (the model card) is None unless requested. ``signers`` are those whose signatures policies require.
    ``snapshot`` is the cached one that it was read from, if it was.
    """

    name: str
    source: str
    revision: Revision | None = None
    adapter: Adapter | None = None
    verdict: Verdict | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    error: LoraCliError | None = None
    digest: str | None = None
    card: Card | None = None
    signers: tuple[str, ...] = ()
    request: Request | None = None
    snapshot: Snapshot | None = None

    def without_contents(self) -> "Checked":
        """The verdict without the parsed contents, which need nearly all the memory."""
        bare = None if self.revision is None else replace(self.revision, files=())
        return replace(self, adapter=None, revision=bare, card=None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings; empty if it was not validated."""
        return self.verdict.findings if self.verdict is not None else ()

    @property
    def reported(self) -> tuple[Finding, ...]:
        """The findings as they are reported: one for each cause."""
        return tuple(fold(self.findings, self.verdict.engines)) if self.verdict is not None else ()

    def exit_code(self, fail_on: Severity = Severity.ERROR, *, strict: bool = False) -> int:
        """The exit code of the command for this adapter alone; ``strict``: 1 for what could not be checked."""
        if self.error is not None:
            return self.error.exit_code
        verdict = self.verdict
        return int(verdict is not None and (verdict.refused(fail_on) or (strict and verdict.is_incomplete)))

    @property
    def read_code(self) -> int:
        """The exit code of a command that only reads it: 1 if config or weights could not be read."""
        if self.error is not None:
            return self.error.exit_code
        adapter = self.adapter
        unreadable = adapter is None or adapter.config is None or adapter.weights_error is not None
        return int(unreadable or (adapter is not None and not adapter.weight_files))


class Stopwatch:
    """Milliseconds by stage, in the order in which the stages ended."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End ``stage``: its time is the time since the last lap."""
        now = time.perf_counter()
        self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + (now - self._since) * 1000
        self._since = now


def gather_evidence(
    adapter: Adapter, files: Files, terms: Terms, companions: Companions | None = None, unread: str = ""
) -> Evidence:
    """Read what the rules need beyond config and header.

    ``companions`` are the files next to the weights, if they were already read. ``unread`` says why a remote adapter's
    files could not be brought.

    Raises:
        LoraCliError: what the source raises.
    """
    stats, reason = _stats(adapter, files, terms, unread)
    companions = companions or companions_of(files, terms)
    commit = files.revision.id if files.ref.scheme in WITH_REVISIONS else ""
    base, base_reason = (terms.base, NO_BASE) if terms.bases is None else terms.bases.of(adapter.config)
    return Evidence(stats, reason, companions, files.ref, commit, base, base_reason)


def companions_of(files: Files, terms: Terms, threads: int = 1) -> Companions | None:
    """The files next to the weights, read by up to ``threads`` threads; None if no rule of ``terms`` needs them.

    Raises:
        LoraCliError: what the source raises.
    """
    if not any("companions" in rule.needs for rule in terms.rules):
        return None
    return read_companions(files, threads=threads)


def _stats(adapter: Adapter, files: Files, terms: Terms, unread: str) -> "tuple[Mapping[str, TensorStats], str]":
    if not terms.values:
        return {}, NO_VALUES
    if not files.on_disk:
        return {}, f"the values were not read: {unread}"
    from lora_cli.adapter.values import scan_values

    return scan_values(files, adapter), ""


def judge(adapter: Adapter, terms: Terms, evidence: Evidence) -> Verdict:
    """Apply the rules of ``terms`` to ``adapter``; pure. All pattern matching for it shares one time budget."""
    with one_budget() as budget:
        verdict = _judge(adapter, terms, evidence)
    return _with_timeout_finding(verdict, budget) if budget.spent and pattern_invalid in terms.rules else verdict


def _with_timeout_finding(verdict: Verdict, budget: Budget) -> Verdict:
    """The verdict with a finding that pattern matching took too long, so that some checks are incomplete."""
    rule = pattern_invalid
    if any(finding.code == rule.code for finding in verdict.findings):
        return verdict
    problem = Problem(f"matching takes longer than {budget.limit_s:g} s", Location(CONFIG), TOO_SLOW)
    return replace(verdict, findings=(*verdict.findings, Finding(rule.code, rule.name, rule.severity, problem, None)))


def _judge(adapter: Adapter, terms: Terms, evidence: Evidence) -> Verdict:
    base = terms.base or evidence.base  # with the head that the adapter's task has
    if base is not None and adapter.config is not None:
        bare = trained_bare(base, adapter.config)
        base = for_task(base, adapter.config.task_type, adapter.pairs, bare=bare)
    case = Case(adapter, apply(adapter, base), evidence, base, deployment=terms.deployment)
    rules = tuple(sorted((*terms.rules, *terms.ignored), key=lambda rule: rule.code))
    if terms.engines:
        case, results = _judge_on_engines(case, replace(terms, rules=rules))
    else:
        results = [one for rule in rules for one in run(rule, case)]
    if ignored := {rule.code for rule in terms.ignored}:
        causes = _causes(one for one in results if isinstance(one, Finding))
        roots = ((_root(one, causes) if isinstance(one, Finding) else one, one) for one in results)
        results = [one for root, one in roots if ignored.isdisjoint({root.code, one.code})]
    application, compared = case.application, base is not None and case.has_weights
    return Verdict(
        adapter=adapter.name,
        findings=tuple(outcome for outcome in results if isinstance(outcome, Finding)),
        skipped=tuple(outcome for outcome in results if isinstance(outcome, Skipped)),
        applied=fitting(case, application.applied, application.matched) if compared else None,
        engines=case.outcomes,
        base=None if base is None else base.name,
        unchecked=tuple(dict.fromkeys(_unchecked(case, terms))),
    )


def _unchecked(case: Case, terms: Terms) -> Iterator[str]:
    """Why what the rules need could not be looked at, apart from what the user asked for."""
    needed = {need for rule in terms.rules for need in rule.needs} | ({"base", "values"} if terms.engines else set())
    for need in ("config", "weights", "base", "values"):
        reason = case.why_missing(need)
        if need in needed and reason not in {"", NO_BASE, NO_VALUES}:
            yield reason


def _judge_on_engines(case: Case, terms: Terms) -> tuple[Case, list[Finding | Skipped]]:
    """The case with the outcome of each named engine, and the results of the selected rules given these outcomes.

    All rules are run, selected or not: an outcome must not be ok because a rule with an error was not selected.
    """
    from lora_cli.rules.engine_verdict import as_lora, downgraded, engine_outcome, ignores_peft_type

    chosen = {rule.code for rule in terms.rules}
    generic = [rule for rule in RULES if not rule.code.startswith(ENGINE_RULES)]
    results = [one for rule in generic for one in run(rule, case)]
    as_named, case = case, as_lora(case, terms.engines)
    if case is not as_named:
        results = [one for one in results if one.code == not_lora.code]
        results += [one for rule in generic for one in run(rule, case)]
    outcomes = tuple(
        engine_outcome(case if ignores_peft_type(profile) else as_named, profile, results) for profile in terms.engines
    )
    case = replace(case, outcomes=outcomes)
    own = [one for rule in terms.rules if rule not in generic for one in run(rule, case)]
    kept = (
        downgraded(one, terms.engines, outcomes) if isinstance(one, Finding) else one
        for one in results
        if one.code in chosen
    )
    return case, [*kept, *own]


def apply_suppressions(
    verdict: Verdict, digest: str | None, settings: Settings, files: Container[str] | None = None
) -> Verdict:
    """``verdict`` with the findings accepted that policies suppress today for ``digest`` (None: unknown).

    The digest is that of ``files`` (None: of all files): what is found in another file is not accepted, since that file
    can change while the digest stays.
    """
    active = [one for one in settings.suppressions if one.digest == digest and not one.expired(today())]

    def accepted(finding: Finding) -> Accepted | None:
        file = finding.problem.at.file
        if file and files is not None and file not in files:
            return None
        one = next((one for one in active if one.covers(finding.code, finding.name)), None)
        return None if one is None else Accepted("policy", one.at, one.reason)

    return with_accepted(verdict, accepted) if active else verdict


def today() -> str:
    """The current day in UTC, in the format of a suppression's ``until``."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def with_accepted(verdict: Verdict, accepted: Callable[[Finding], Accepted | None]) -> Verdict:
    """``verdict`` with ``accepted`` applied to the findings that count; accepted ones no longer count.

    What follows from an accepted finding is accepted with it.
    """
    findings = [
        finding
        if finding.accepted is not None or finding.severity is Severity.NOTE
        else replace(finding, accepted=accepted(finding))
        for finding in verdict.findings
    ]
    causes = _causes(findings)
    findings = [replace(one, accepted=one.accepted or _root(one, causes).accepted) for one in findings]
    return replace(verdict, findings=tuple(findings))


def fold(findings: Iterable[Finding], engines: Sequence[EngineOutcome]) -> Iterator[Finding]:
    """The findings in their order, without those that follow from another one that counts.

    A cause has the highest severity of all, and what the engines do in its message.
    """
    findings = list(findings)
    first = _causes(findings)
    following: dict[int, list[Finding]] = {}
    for finding in findings:
        if (cause := _root(finding, first)) is not finding:
            following.setdefault(id(cause), []).append(finding)
    for finding in findings:
        if _root(finding, first) is finding:
            yield _with(finding, following.get(id(finding), ()), engines)


def _causes(findings: Iterable[Finding]) -> Mapping[str, Finding]:
    """The first finding of each rule, one that counts where there is one: what other findings may follow from."""
    first: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda one: one.accepted is not None):
        first.setdefault(finding.code, finding)
    return first


def _root(finding: Finding, first: Mapping[str, Finding]) -> Finding:
    """The cause of the finding that has no cause itself, which may be the finding."""
    cause = next((first[code] for code in finding.problem.causes if code in first), None)
    if cause is None or (finding.accepted is not None and cause.accepted is None):
        return finding
    return _root(cause, first)


def _with(cause: Finding, consequences: Sequence[Finding], engines: Iterable[EngineOutcome]) -> Finding:
    if not consequences:
        return cause
    on = [f"{one} {one.outcome.phrase}" for one in engines if any(_is_on(one, each) for each in (cause, *consequences))]
    severity = max(one.severity for one in (cause, *consequences))
    problem = replace(cause.problem, message="; ".join((cause.problem.message, *on)))
    followed = tuple((one.code, one.problem.by) for one in consequences)
    return replace(cause, severity=severity, problem=problem, consequences=followed)


def _is_on(engine: EngineOutcome, finding: Finding) -> bool:
    """Whether the finding is a reason for the engine's outcome."""
    if finding.problem.by:
        return finding.problem.message.startswith(f"{engine} ")
    return any(reason.code == finding.code for reason in engine.reasons)
