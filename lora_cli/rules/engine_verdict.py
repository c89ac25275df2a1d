"""One adapter × one engine → ``EngineOutcome``: the rows of the profile that apply, and the errors of other rules."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import islice

from lora_cli.adapter.adapter import Adapter
from lora_cli.adapter.names import PAIR_PARTS, last_name
from lora_cli.base.base_model import UNKNOWN_FAMILY
from lora_cli.engines.name_resolution import HEADS, NameResolution, resolve_names, unparsed_names
from lora_cli.engines.peft import method_outcome
from lora_cli.engines.profile import ENGINE_INDEPENDENT, NAME_RULES, Profile, Row
from lora_cli.finding import EngineOutcome, Finding, Outcome, Reason, Severity, Skipped
from lora_cli.peft.match import apply
from lora_cli.rules.base_model import fitting
from lora_cli.rules.features import FEATURES, EngineCase, Found
from lora_cli.rules.features.tensors import is_saved
from lora_cli.rules.rule import LONGEST_MESSAGE, MOST_PROBLEMS, Case
from lora_cli.text import counted, cut

PEFT = "peft"
RANK = "rank-above-max"
PICKLES = "LC108"
"""The rule about pickles, which is also about files that an engine does not read."""

FOREIGN = frozenset({"LC109", "LC201"})
"""Rules about adapters that are not LoRA adapters of PEFT."""

GENERATORS = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|^PeftModel\w*)$")
"""Classes of transformers and PEFT that engines for language models may serve."""

ROOTS = frozenset({"model", "language_model", "lm_head", "thinker"})
"""First components of module names in the classes for text generation that engines put LoRA on."""

NOT_SERVED = frozenset({"other-model", "base-without-lora"})
"""Features that say that the engine does not serve the adapter's base, whichever that is."""

RULES_OF = {Outcome.REJECTS: "LC402", Outcome.CRASHES: "LC403", Outcome.SERVES_WRONG: "LC404"}
"""The rule that reports a row's outcome; a rank above the engine's limit is reported by LC401, as without an engine."""


def ignores_peft_type(profile: Profile) -> bool:
    """Whether the engine does not read ``peft_type``."""
    return profile.engine.name != PEFT and profile.engine.generic.get("LC201") is Outcome.OK


def as_lora(case: Case, profiles: Iterable[Profile]) -> Case:
    """The case as engines see it that ignore ``peft_type``: with LoRA factors it is a LoRA adapter for them."""
    adapter = case.adapter
    if adapter.config is None or not adapter.pairs or case.is_lora or not any(map(ignores_peft_type, profiles)):
        return case
    adapter = replace(adapter, config=adapter.config.model_copy(update={"peft_type": "LORA"}), foreign=None)
    return replace(case, adapter=adapter, application=apply(adapter, case.base))


def engine_outcome(stored: Case, profile: Profile, results: Sequence[Finding | Skipped]) -> EngineOutcome:
    """The outcome for the adapter on the engine of a profile; pure.

    ``results`` are those of all rules that apply without an engine: the profile says which of them are harmless to it.
    The outcome is unknown if a check that matters to the engine was skipped.
    """
    resolution, applied = NameResolution(), None
    if stored.base is None:
        resolution = NameResolution(outside=unparsed_names(stored.adapter, profile.grammar))
    elif stored.has_weights:
        if profile.engine.name == PEFT:
            applied = fitting(stored, stored.application.applied, stored.application.matched)
        else:
            resolution = resolve_names(stored.adapter, stored.base, profile)
            applied = fitting(stored, resolution.applied_count, resolution.applied)
    case = EngineCase(
        **{one.name: getattr(stored, one.name) for one in fields(stored)},
        profile=profile,
        resolution=resolution,
        other_keys=tuple(key for key in stored.adapter.keys.values() if key.part not in PAIR_PARTS),
    )
    reasons = (*_row_reasons(case), *_rule_reasons(case, (one for one in results if isinstance(one, Finding))))
    unknown = [
        feature.title
        for name, feature in FEATURES.items()
        if name in profile.engine.unknown and any(feature.detect(case))
    ]
    feature_note = f"its behaviour with {', '.join(unknown)} is unknown" if unknown else ""
    model_note = _why_base_unknown(case) if profile.engine.name != PEFT else ""
    if any(_is_final(reason) for reason in reasons):
        model_note = ""
    proven = profile.proven and not unknown and not model_note
    outcome = max((reason.outcome for reason in reasons), default=Outcome.OK)
    skipped = stored.why_missing("base") if applied is None and outcome is Outcome.OK else ""
    if outcome is Outcome.OK and not skipped:
        matter = (one for one in results if isinstance(one, Skipped) and profile.engine.generic.get(one.code))
        skipped = next((one.reason for one in matter), "")
    return EngineOutcome(
        engine=profile.engine.name,
        title=profile.engine.title,
        version=profile.requested or None,
        profile=profile.version,
        proven=proven,
        note="; ".join(filter(None, (profile.note, feature_note, model_note, skipped))),
        outcome=Outcome.UNKNOWN if outcome is Outcome.OK and (skipped or not proven) else outcome,
        applied=applied,
        reasons=reasons,
    )


def _is_final(reason: Reason) -> bool:
    """Whether the engine does not serve the adapter, whichever base and flags it is started with."""
    return reason.feature in NOT_SERVED or (reason.outcome is Outcome.REJECTS and reason.feature != RANK)


def _why_base_unknown(case: EngineCase) -> str:
    """Why it is unknown whether the engine supports LoRA on the base; empty if it is known."""
    base = case.base
    if base is not None and base.model_type != UNKNOWN_FAMILY:
        if case.profile.engine.is_known(base):
            return ""
        return f"its LoRA support for bases of the family {cut(base.model_type)} is unknown"
    other_model = _why_not_language_model(case.adapter)
    lacking = "a base" if base is None else "the base's family"
    return f"without {lacking} it is unknown whether it serves the adapter: {other_model}" if other_model else ""


def _why_not_language_model(adapter: Adapter) -> str:
    """Why the adapter may not be for a language model that engines serve; empty if there is no sign of that."""
    config = adapter.config
    named = config.base_class if config is not None else ""
    if named and not GENERATORS.search(named):
        return f"auto_mapping names {cut(named)}"
    if config is not None and config.task_type not in {None, "CAUSAL_LM"}:
        return f"task_type is {cut(str(config.task_type))}"
    strange = next((one for one in adapter.pairs if one.partition(".")[0] not in ROOTS or ".encoder." in one), "")
    if strange:
        return f"there is a module {cut(strange)}"
    head = next((key.name for key in adapter.keys.values() if is_saved(key) and last_name(key.module) in HEADS), "")
    return f"there is a classification head, {cut(head)}" if head else ""


def _row_reasons(case: EngineCase) -> Iterator[Reason]:
    if case.adapter.foreign is not None and not case.adapter.pairs:  # no adapter at all, which other rules say
        return
    for row in case.profile.rows:
        detected = FEATURES[row.feature].detect(case)
        few = list(islice(detected, MOST_PROBLEMS))
        yield from (_reason(row, found, case.profile) for found in few)
        if left := sum(1 for _ in detected):
            rest = replace(few[-1], message=f"the same in {counted(left, 'more place')}")
            yield _reason(row, rest, case.profile)


def _reason(row: Row, found: Found, profile: Profile) -> Reason:
    is_rank = row.feature == RANK
    mend = row.mend.format(**found.fields) if "{" in row.mend else found.fields.get("mend", row.mend)
    message = f"{found.message}; {row.reason}" if row.reason else found.message
    return Reason(
        outcome=row.outcome,
        feature=row.feature,
        code="LC401" if is_rank else RULES_OF[row.outcome],
        message=cut(message, LONGEST_MESSAGE),
        at=found.at,
        limit=profile.allowed if is_rank else "",
        mend=cut(mend, LONGEST_MESSAGE),
        evidence=row.evidence,
        causes=found.causes,
    )


def _rule_reasons(case: EngineCase, findings: Iterable[Finding]) -> Iterator[Reason]:
    """The errors of rules that apply without an engine, as far as they matter to this one."""
    for finding in findings:
        if finding.code == PICKLES and _is_unread(finding.problem.at.file, case):
            continue
        outcome = _generic_outcome(finding.code, case)
        if finding.severity is Severity.ERROR and finding.code not in ENGINE_INDEPENDENT and outcome is not Outcome.OK:
            problem = finding.problem
            yield Reason(outcome, finding.code, finding.code, problem.message, problem.at, mend=problem.hint)


def _is_unread(file: str, case: EngineCase) -> bool:
    """Whether the engine does not read this file of the adapter's folder, since it loads the weights alone."""
    weights = case.adapter.weight_files
    return not case.profile.engine.reads_others and bool(weights) and file not in weights


def _generic_outcome(code: str, case: EngineCase) -> Outcome:
    """The outcome for an adapter for which the rule of ``code`` has an error.

    LoRA factors with another ``peft_type`` are another method to PEFT alone. For features whose effect is unknown
    nothing is claimed: the error stays, since the engine is not known to ignore it.
    """
    if code in {FEATURES[name].rule for name in case.profile.engine.unknown}:
        return Outcome.OK
    is_peft = case.profile.engine.name == PEFT
    if code == "LC201" and is_peft and case.adapter.pairs and case.adapter.config is not None:
        family = case.base.model_type if case.base is not None else ""
        if (outcome := method_outcome(case.config.peft_type, family)) is not None:
            return outcome
    by_name = is_peft or not case.adapter.pairs
    if case.adapter.foreign is not None and code in FOREIGN and by_name:
        has_names = bool(case.adapter.weight_files) and case.adapter.config is not None
        reads_it = not case.profile.grammar.strict and (code != "LC201" or case.profile.engine.name == PEFT)
        return Outcome.SERVES_WRONG if has_names and reads_it else Outcome.REJECTS
    return case.profile.engine.generic.get(code, Outcome.SERVES_WRONG)


def downgraded(finding: Finding, profiles: Iterable[Profile], outcomes: Iterable[EngineOutcome]) -> Finding:
    """``finding``, as a warning if it is an error that is harmless to every named engine."""
    if finding.severity is not Severity.ERROR or finding.code in ENGINE_INDEPENDENT:
        return finding
    harmless = all(_is_harmless(finding.code, *one) for one in zip(profiles, outcomes, strict=True))
    return replace(finding, severity=Severity.WARNING) if harmless else finding


def _is_harmless(code: str, profile: Profile, outcome: EngineOutcome) -> bool:
    """Whether the engine serves the adapter correctly despite the error ``code``, or has rows of its own for it.

    Names that PEFT does not find are harmless if the engine finds all of them.
    """
    if profile.engine.generic.get(code) is not Outcome.OK or code in {reason.feature for reason in outcome.reasons}:
        return False
    applied = outcome.applied
    return code not in NAME_RULES or (applied is not None and applied.matched == applied.total)
