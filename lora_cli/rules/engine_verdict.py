"""One adapter × one engine → ``EngineOutcome``: the rows of a profile that hold for it, and what else is wrong."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from lora_cli.core.adapter import Adapter
from lora_cli.core.base_model import UNKNOWN_FAMILY
from lora_cli.core.engine_outcome import Deployment, EngineOutcome, Outcome, Reason
from lora_cli.core.finding import Applied, Finding, Severity
from lora_cli.core.tensor_keys import PAIR_PARTS
from lora_cli.core.text import counted, cut
from lora_cli.engines.name_resolution import Landing, land
from lora_cli.engines.profile import APART, BY_NAMES, Profile, Row
from lora_cli.rules.features import FEATURES, Found, Served
from lora_cli.rules.rule import LONGEST_MESSAGE, MOST_PROBLEMS, Case
from lora_cli.rules.target_module_matching import apply

PEFT = "peft"
RANK = "rank-above-max"

FOREIGN = frozenset({"LC109", "LC201"})
"""Rules that find something else than a LoRA adapter of PEFT."""

GENERATORS = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|^PeftModel\w*)$")
"""Classes of transformers and PEFT that engines for language models may serve."""

ROOTS = frozenset({"model", "language_model", "lm_head", "thinker"})
"""How the names of modules begin in the classes for text generation that engines put LoRA on."""

RULES_OF = {Outcome.REJECTS: "LC402", Outcome.CRASHES: "LC403", Outcome.SERVES_WRONG: "LC404"}
"""The rule under which a row's outcome is a finding; a rank above the engine's is LC401's, as without an engine."""


def takes_for_lora(profile: Profile) -> bool:
    """Whether the engine does not look at ``peft_type``."""
    return profile.engine.name != PEFT and profile.engine.generic.get("LC201") is Outcome.OK


def as_lora(case: Case, profiles: Iterable[Profile]) -> Case:
    """The case as engines see it that do not look at ``peft_type``: factors of LoRA are that, whatever it says."""
    adapter = case.adapter
    if adapter.config is None or not adapter.pairs or case.is_lora or not any(map(takes_for_lora, profiles)):
        return case
    adapter = replace(adapter, config=replace(adapter.config, peft_type="LORA"), foreign=None)
    return replace(case, adapter=adapter, application=apply(adapter, case.base))


def serve(case: Case, profile: Profile, deployment: Deployment, findings: Sequence[Finding]) -> EngineOutcome:
    """What the engine of a profile, deployed so, does with the adapter; pure.

    ``findings`` are those of all rules that hold without an engine: a profile says which of them it survives.
    """
    beside = tuple(key for key in case.adapter.keys.values() if key.part not in PAIR_PARTS)
    landing, applied = Landing(), None
    if case.base is not None and case.has_weights:
        if profile.engine.name == PEFT:
            applied = case.application.applied
        else:
            landing = land(case.adapter, case.base, profile)
            applied = landing.counted
    return _outcome(Served(case, profile, deployment, landing, beside), applied, findings)


def _outcome(served: Served, applied: Applied | None, findings: Sequence[Finding]) -> EngineOutcome:
    case, profile = served.case, served.profile
    reasons = (*_by_rows(served), *_by_rules(served, findings))
    unread = [feature.title for name, feature in FEATURES.items() if name in profile.engine.unread
              and any(feature.detect(served))]  # fmt: skip
    unread_note = f"its behaviour with {', '.join(unread)} is unknown" if unread else ""
    model_note = _unsure_of_base(case, profile) if profile.engine.name != PEFT else ""
    return EngineOutcome(
        engine=profile.engine.name,
        title=profile.engine.title,
        version=profile.asked or None,
        profile=profile.version,
        proven=profile.proven and not unread and not model_note,
        note="; ".join(filter(None, (profile.note, unread_note, model_note))),
        outcome=max((reason.outcome for reason in reasons), default=Outcome.OK),
        applied=applied,
        reasons=reasons,
    )


def _unsure_of_base(case: Case, profile: Profile) -> str:
    """Why it is not known whether the engine serves such a base with LoRA at all; empty if nothing says so."""
    base = case.base
    if base is not None and base.model_type != UNKNOWN_FAMILY:
        if profile.engine.looked_at(base):
            return ""
        return f"it is not known whether it serves a base of the family {cut(base.model_type)} with LoRA"
    other_model = _not_a_language_model(case.adapter)
    lacking = "a base" if base is None else "the base's family"
    return f"without {lacking} it is not known whether it serves the adapter: {other_model}" if other_model else ""


def _not_a_language_model(adapter: Adapter) -> str:
    """Why the adapter may not be one of a language model that engines serve with LoRA; empty if nothing says so."""
    config = adapter.config
    named = (config.auto_mapping or {}).get("base_model_class") if config is not None else None
    if isinstance(named, str) and not GENERATORS.search(named):
        return f"auto_mapping names {cut(named)}"
    if config is not None and config.task_type not in {None, "CAUSAL_LM"}:
        return f"task_type is {cut(str(config.task_type))}"
    strange = next((one for one in adapter.pairs if one.partition(".")[0] not in ROOTS or ".encoder." in one), "")
    return f"there is a module {cut(strange)}" if strange else ""


def _by_rows(served: Served) -> Iterator[Reason]:
    if served.adapter.foreign is not None and not served.adapter.pairs:  # no adapter at all, which other rules say
        return
    for row in served.profile.rows:
        detected = FEATURES[row.feature].detect(served)
        few = list(islice(detected, MOST_PROBLEMS))
        yield from (_reason(row, found, served.profile) for found in few)
        if left := sum(1 for _ in detected):
            rest = replace(few[-1], message=f"the same holds in {counted(left, 'more place')}")
            yield _reason(row, rest, served.profile)


def _reason(row: Row, found: Found, profile: Profile) -> Reason:
    is_rank = row.feature == RANK
    mend = row.mend.format(**found.fields) if "{" in row.mend else found.fields.get("mend", row.mend)
    said = f"{found.message}; {row.reason}" if row.reason else found.message
    return Reason(
        outcome=row.outcome,
        feature=row.feature,
        code="LC401" if is_rank else RULES_OF[row.outcome],
        message=cut(said, LONGEST_MESSAGE),
        at=found.at,
        limit=profile.allowed if is_rank else "",
        mend=cut(mend, LONGEST_MESSAGE),
        evidence=row.evidence,
    )


def _by_rules(served: Served, findings: Iterable[Finding]) -> Iterator[Reason]:
    """What the engine makes of what the rules without an engine call an error."""
    for finding in findings:
        outcome = _made_of(finding.code, served)
        if finding.severity is Severity.ERROR and finding.code not in APART and outcome is not Outcome.OK:
            problem = finding.problem
            yield Reason(outcome, finding.code, finding.code, problem.message, problem.at, mend=problem.hint)


def _made_of(code: str, served: Served) -> Outcome:
    """What an engine does with findings of ``code``: of another format that has PEFT's file names, nothing fits.

    Factors of LoRA that are only called another method are that to PEFT alone. Of what is not established nothing
    is claimed: it stays an error, since the engine is not known to survive it.
    """
    if code in {FEATURES[name].rule for name in served.profile.engine.unread}:
        return Outcome.OK
    by_name = served.profile.engine.name == PEFT or not served.adapter.pairs
    if served.adapter.foreign is not None and code in FOREIGN and by_name:
        has_names = bool(served.adapter.weight_files) and served.config is not None
        reads_it = not served.profile.grammar.strict and (code != "LC201" or served.profile.engine.name == PEFT)
        return Outcome.SERVES_WRONG if has_names and reads_it else Outcome.REJECTS
    return served.profile.engine.generic.get(code, Outcome.SERVES_WRONG)


def softened(finding: Finding, profiles: Iterable[Profile], served: Iterable[EngineOutcome]) -> Finding:
    """``finding``, as a warning where it is an error that every named engine survives correctly."""
    if finding.severity is not Severity.ERROR or finding.code in APART:
        return finding
    survived = all(_survives(finding.code, profile, one) for profile, one in zip(profiles, served, strict=True))
    return replace(finding, severity=Severity.WARNING) if survived else finding


def _survives(code: str, profile: Profile, served: EngineOutcome) -> bool:
    """Whether the engine serves correctly what the rule of ``code`` found, or checked it by rows of its own.

    That names lead nowhere for PEFT is survived where they all lead somewhere for the engine.
    """
    if profile.engine.generic.get(code) is not Outcome.OK or code in {reason.feature for reason in served.reasons}:
        return False
    counted = served.applied
    return code not in BY_NAMES or (counted is not None and counted.matched == counted.total)
