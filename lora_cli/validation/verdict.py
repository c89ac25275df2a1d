"""An adapter that was read × what it is judged against → its verdict."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import BaseModel
from lora_cli.core.companions import Companions
from lora_cli.core.finding import Accepted, Applied, Finding, Location, Problem, Severity, Skipped, Verdict
from lora_cli.core.patterns import TOO_SLOW, Budget, one_budget
from lora_cli.core.reference import AdapterRef
from lora_cli.core.safetensors import TensorStats
from lora_cli.core.snapshot import Revision
from lora_cli.rules import RULES
from lora_cli.rules.application import apply
from lora_cli.rules.base import misshapen
from lora_cli.rules.case import CONFIG_FILE, Case, Evidence
from lora_cli.rules.config import pattern_invalid
from lora_cli.rules.rule import Rule, run
from lora_cli.settings import Settings
from lora_cli.sources import Source, is_near

if TYPE_CHECKING:
    from lora_cli.core.engine_outcome import Deployment
    from lora_cli.engines import Profile
    from lora_cli.reading.adapter import Opened
    from lora_cli.validation.spectrum import Weights

ENGINE_RULES = "LC4"


@dataclass(frozen=True, slots=True)
class Terms:
    """What adapters are judged against, the same for all of one run.

    ``base`` is None where there is none. ``values`` False leaves the tensors' values
    unread. ``max_lora_rank`` is the limit of whoever will serve them, None for no limit. ``engines`` are those that
    will, started as ``deployment`` says; without any the format's owner judges. ``spectrum`` asks for the spectrum,
    beside those weights of the base; ``other`` is an adapter that each is compared with. With ``card`` the model card
    is read.
    """

    base: BaseModel | None = None
    values: bool = True
    max_lora_rank: int | None = None
    rules: tuple[Rule, ...] = RULES
    engines: "tuple[Profile, ...]" = ()
    deployment: "Deployment | None" = None
    spectrum: "Weights | None" = None
    other: "Opened | None" = None
    card: bool = False


def gather(one: "Opened", terms: Terms, ref: AdapterRef, companions: Companions | None = None) -> Evidence:
    """Read what the rules look at beyond config and header. ``ref`` is what the user asked for.

    ``companions`` are what stands beside the weights, where somebody has read that already.

    Raises:
        LoraCliError: what the source raises.
    """
    stats, reason = _stats(one, terms)
    companions = companions or companions_of(one.source, one.revision, terms)
    return Evidence(stats, reason, companions, ref, one.revision.id if one.revision.ref.scheme == "hf" else "")


def companions_of(source: Source, revision: Revision, terms: Terms, threads: int = 1) -> Companions | None:
    """What stands beside the weights, read by up to ``threads`` at once; None where no rule of ``terms`` asks for it.

    Raises:
        LoraCliError: what the source raises.
    """
    if not any("companions" in rule.needs for rule in terms.rules):
        return None
    from lora_cli.reading.companions import read_companions

    return read_companions(source, revision, here=is_near(source, revision), threads=threads)


def _stats(one: "Opened", terms: Terms) -> tuple[Mapping[str, TensorStats], str]:
    if not terms.values:
        return {}, "--no-values was given"
    if not is_near(one.source, one.revision):
        return {}, "the values of a remote adapter are not read; fetch it first"
    if one.adapter.weights_error is not None or not one.adapter.weight_files:
        return {}, "the weights could not be read"
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
    base = _as_trained(adapter, terms.base)
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


def _as_trained(adapter: Adapter, base: BaseModel | None) -> BaseModel | None:
    """The base with the head that the adapter's task has."""
    task = adapter.config.task_type if adapter.config is not None else None
    if base is None or task is None or task == "CAUSAL_LM":
        return base
    from lora_cli.core.targets import for_task

    return for_task(base, task, adapter.pairs)


def _on_engines(case: Case, terms: Terms) -> tuple[Case, list[Finding | Skipped]]:
    """The case with what each named engine does, and what the chosen rules say in the light of that.

    All rules are asked, chosen or not: an engine is not said to serve what another rule would have found broken.
    """
    from lora_cli.core.engine_outcome import Deployment
    from lora_cli.rules.serving import serve, softened

    deployment, chosen = terms.deployment or Deployment(), {rule.code for rule in terms.rules}
    generic = [rule for rule in RULES if not rule.code.startswith(ENGINE_RULES)]
    said = [one for rule in generic for one in run(rule, case)]
    served = serve(case, terms.engines, deployment, [one for one in said if isinstance(one, Finding)])
    case = replace(case, served=served, deployment=deployment)
    own = [one for rule in terms.rules if rule not in generic for one in run(rule, case)]
    kept = (
        softened(one, terms.engines, served) if isinstance(one, Finding) else one for one in said if one.code in chosen
    )
    return case, [*kept, *own]


def suppressed(verdict: Verdict, digest: str | None, settings: Settings) -> Verdict:
    """``verdict`` with what the policies suppress today for ``digest`` accepted; None is a digest that nobody knows."""
    holding = [one for one in settings.suppressions if one.digest == digest and not one.expired(today())]

    def accepted(finding: Finding) -> Accepted | None:
        one = next((one for one in holding if one.covers(finding.code, finding.name)), None)
        return None if one is None else Accepted("policy", one.at, one.reason)

    return accepting(verdict, accepted) if holding else verdict


def today() -> str:
    """The day, in UTC, as ``until`` of a suppression is written."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def accepting(verdict: Verdict, accepted: Callable[[Finding], Accepted | None]) -> Verdict:
    """``verdict`` in which those findings that count are asked about; what is accepted counts no longer."""
    findings = tuple(
        finding
        if finding.accepted is not None or finding.severity is Severity.NOTE
        else replace(finding, accepted=accepted(finding))
        for finding in verdict.findings
    )
    return replace(verdict, findings=findings)
