"""A parsed adapter × the terms of validation → its verdict; and the result for one adapter."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.companions import Card, Companions
from lora_cli.core.engine_outcome import Deployment
from lora_cli.core.finding import Accepted, Applied, Finding, Location, Problem, Severity, Skipped, Verdict
from lora_cli.core.patterns import TOO_SLOW, Budget, one_budget
from lora_cli.core.reference import AdapterRef
from lora_cli.core.safetensors import TensorStats
from lora_cli.core.snapshot import Revision
from lora_cli.core.target_modules import for_task, trained_bare
from lora_cli.errors import LoraCliError, NotFound
from lora_cli.reading.adapter import Opened
from lora_cli.reading.companions import read_companions
from lora_cli.rules import RULES
from lora_cli.rules.base_model import misshapen
from lora_cli.rules.config import not_lora, pattern_invalid
from lora_cli.rules.rule import CONFIG_FILE, Case, Evidence, Rule, run
from lora_cli.rules.target_module_matching import apply
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_near

if TYPE_CHECKING:
    from lora_cli.core.comparison import Comparison
    from lora_cli.core.spectrum import Spectrum
    from lora_cli.engines import Profile
    from lora_cli.validation.tensor_facts import Weights

ENGINE_RULES = "LC4"


@dataclass(frozen=True, slots=True)
class Terms:
    """What adapters are validated against, the same for all of one run.

    ``base`` is None if there is none. ``values`` False leaves the tensors' values unread. ``max_lora_rank`` is the
    limit of the engine that will serve them, None for no limit. ``engines`` are those that will, started as
    ``deployment`` says; without any PEFT's behaviour counts. ``spectrum`` asks for the spectrum, next to those weights
    of the base; ``other`` is an adapter that each is compared with. With ``card`` the model card is read. Without
    ``weights`` the weights' header is not read, which leaves the config.
    """

    base: BaseModel | None = None
    values: bool = True
    max_lora_rank: int | None = None
    rules: tuple[Rule, ...] = RULES
    engines: "tuple[Profile, ...]" = ()
    deployment: Deployment | None = None
    spectrum: "Weights | None" = None
    other: Opened | None = None
    card: bool = False
    weights: bool = True


@dataclass(frozen=True, slots=True)
class Checked:
    """One adapter, validated in place; or the ``error`` why it could not be read.

    ``source`` is the canonical reference (or the text as given, if it is invalid); ``stage_ms`` maps resolve, read,
    values and rules to milliseconds. ``digest`` is the snapshot digest, where the cache, the lock or a policy has it.
    ``spectrum`` and ``comparison`` (with another adapter) are there where they were asked for. ``card`` is the model
    card, where it was asked for and there is one.
    """

    name: str
    source: str
    revision: Revision | None = None
    adapter: Adapter | None = None
    verdict: Verdict | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    error: LoraCliError | None = None
    digest: str | None = None
    spectrum: "Spectrum | None" = None
    comparison: "Comparison | None" = None
    card: Card | None = None

    def without_contents(self) -> "Checked":
        """The verdict without the parsed contents, which need nearly all the memory."""
        bare = None if self.revision is None else replace(self.revision, files=())
        return replace(self, adapter=None, revision=bare, spectrum=None, comparison=None, card=None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, nothing if it was not validated."""
        return self.verdict.findings if self.verdict is not None else ()

    def exit_code(self, fail_on: Severity = Severity.ERROR) -> int:
        """The exit code of the command for this adapter alone."""
        if self.error is not None:
            return self.error.exit_code
        return int(self.verdict is not None and self.verdict.refused(fail_on))

    @property
    def read_code(self) -> int:
        """The exit code of a command that only reads it.

        1 where config or weights are not read, 3 where values were asked for that are not on this disk.
        """
        if self.error is not None:
            return self.error.exit_code
        adapter = self.adapter
        unreadable = adapter is None or adapter.config is None or adapter.weights_error is not None
        values = (self.spectrum, self.comparison)
        if not unreadable and any(one is not None and one.unread for one in values):
            return NotFound.exit_code
        return int(unreadable or (adapter is not None and not adapter.weight_files))


class Stopwatch:
    """Milliseconds by stage, in the order in which the stages ended."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End ``stage``: it took the time since the last lap, less what was booked inside it."""
        now = time.perf_counter()
        self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + (now - self._since) * 1000
        self._since = now


def gather(one: Opened, terms: Terms, ref: AdapterRef, companions: Companions | None = None) -> Evidence:
    """Read what the rules look at beyond config and header. ``ref`` is what the user asked for.

    ``companions`` are what is next to the weights, if that was already read.

    Raises:
        LoraCliError: what the source raises.
    """
    stats, reason = _stats(one, terms)
    companions = companions or companions_of(one.source, one.revision, terms)
    return Evidence(stats, reason, companions, ref, one.revision.id if one.revision.ref.scheme == "hf" else "")


def companions_of(source: Source, revision: Revision, terms: Terms, threads: int = 1) -> Companions | None:
    """What is next to the weights, read by up to ``threads`` at once; None if no rule of ``terms`` asks for it.

    Raises:
        LoraCliError: what the source raises.
    """
    if not any("companions" in rule.needs for rule in terms.rules):
        return None
    return read_companions(source, revision, local=is_near(source, revision), threads=threads)


def _stats(one: Opened, terms: Terms) -> tuple[Mapping[str, TensorStats], str]:
    if not terms.values:
        return {}, "--no-values was given"
    if not is_near(one.source, one.revision):
        return {}, "the values of a remote adapter are not read; fetch it first"
    from lora_cli.reading.tensor_values import scan_values

    return scan_values(one.source, one.revision, one.adapter), ""


def judge(adapter: Adapter, terms: Terms, evidence: Evidence) -> Verdict:
    """What the rules of ``terms`` say about ``adapter``; pure. All matching for it shares one budget."""
    with one_budget() as budget:
        verdict = _judge(adapter, terms, evidence)
    return _told_of_time(verdict, budget) if budget.spent and pattern_invalid in terms.rules else verdict


def _told_of_time(verdict: Verdict, budget: Budget) -> Verdict:
    """The verdict, which says that matching took too long: some question has no answer then."""
    rule = pattern_invalid
    if any(finding.code == rule.code for finding in verdict.findings):
        return verdict
    problem = Problem(f"matching takes longer than {budget.limit_s:g} s", Location(CONFIG_FILE), TOO_SLOW)
    return replace(verdict, findings=(*verdict.findings, Finding(rule.code, rule.name, rule.severity, problem, None)))


def _judge(adapter: Adapter, terms: Terms, evidence: Evidence) -> Verdict:
    base = terms.base  # with the head that the adapter's task has
    if base is not None and adapter.config is not None:
        bare = trained_bare(base, adapter.config)
        base = for_task(base, adapter.config.task_type, adapter.pairs, bare=bare)
    application = apply(adapter, base)
    case = Case(adapter, application, evidence, base, terms.max_lora_rank)
    if terms.engines:
        case, said = _on_engines(case, terms)
    else:
        said = [one for rule in terms.rules for one in run(rule, case)]
    return Verdict(
        adapter=adapter.name,
        findings=tuple(outcome for outcome in said if isinstance(outcome, Finding)),
        skipped=tuple(outcome for outcome in said if isinstance(outcome, Skipped)),
        applied=_applied(case) if terms.base is not None and case.has_weights else None,
        engines=case.served,
    )


def _applied(case: Case) -> Applied:
    """How many modules the base has, in the shapes that the factors need."""
    named = case.application.applied
    return replace(named, matched=named.matched - len(misshapen(case).keys() & set(case.application.matched)))


def _on_engines(case: Case, terms: Terms) -> tuple[Case, list[Finding | Skipped]]:
    """The case with what each named engine does, and what the chosen rules say in the light of that.

    All rules are asked, chosen or not: an engine is not said to serve what another rule would have found broken.
    """
    from lora_cli.rules.engine_verdict import as_lora, serve, softened, takes_for_lora

    deployment, chosen = terms.deployment or Deployment(), {rule.code for rule in terms.rules}
    generic = [rule for rule in RULES if not rule.code.startswith(ENGINE_RULES)]
    said = [one for rule in generic for one in run(rule, case)]
    as_named, case = case, as_lora(case, terms.engines)
    if case is not as_named:
        said = [one for one in said if one.code == not_lora.code]
        said += [one for rule in generic for one in run(rule, case)]
    found = [one for one in said if isinstance(one, Finding)]
    served = tuple(
        serve(case if takes_for_lora(profile) else as_named, profile, deployment, found) for profile in terms.engines
    )
    case = replace(case, served=served, deployment=deployment)
    own = [one for rule in terms.rules if rule not in generic for one in run(rule, case)]
    kept = (
        softened(one, terms.engines, served) if isinstance(one, Finding) else one for one in said if one.code in chosen
    )
    return case, [*kept, *own]


def suppressed(verdict: Verdict, digest: str | None, settings: Settings) -> Verdict:
    """``verdict`` with what the policies suppress today for ``digest`` accepted; None is an unknown digest."""
    holding = [one for one in settings.suppressions if one.digest == digest and not one.expired(today())]

    def accepted(finding: Finding) -> Accepted | None:
        one = next((one for one in holding if one.covers(finding.code, finding.name)), None)
        return None if one is None else Accepted("policy", one.at, one.reason)

    return accepting(verdict, accepted) if holding else verdict


def today() -> str:
    """The day, in UTC, as ``until`` of a suppression is written."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def accepting(verdict: Verdict, accepted: Callable[[Finding], Accepted | None]) -> Verdict:
    """``verdict`` with ``accepted`` applied to the findings that count; what it accepts no longer counts."""
    findings = tuple(
        finding
        if finding.accepted is not None or finding.severity is Severity.NOTE
        else replace(finding, accepted=accepted(finding))
        for finding in verdict.findings
    )
    return replace(verdict, findings=findings)
