"""The reports of ``rules`` and ``engines``, of which JSON is the fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_cli.engines import Profile
from lora_cli.finding import Outcome, Severity
from lora_cli.json_schema import PositiveCount, RuleCode, Version
from lora_cli.rules.features import FEATURES
from lora_cli.rules.rule import Need, Rule
from lora_cli.version import __version__


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """One rule of validate."""

    code: RuleCode
    name: str
    severity: Severity
    needs: Sequence[Need]
    """What it reads: without that it is skipped."""
    summary: str
    documentation: str
    """What is checked, why it is bad, and the fix, as Markdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesReport:
    """The rules of validate. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/rules/1"] = "lora_cli/rules/1"
    version: Version = __version__
    rules: Sequence[RuleEntry]


def rules_report(rules: Sequence[Rule]) -> RulesReport:
    """The report of ``rules``."""
    entries = [RuleEntry(one.code, one.name, one.severity, one.needs, one.summary, one.documentation) for one in rules]
    return RulesReport(rules=entries)


@dataclass(frozen=True, slots=True)
class FeatureEntry:
    """What an engine does with one feature of an adapter."""

    feature: str
    title: str
    outcome: Outcome | None
    """Null where it is not known."""
    reason: str
    mend: str
    """How the adapter can be changed, or the engine started, so that it is served right."""
    evidence: str
    """Where this was found."""
    proof: str
    """How it is known: run, read or reasoned; empty if the feature is served right."""


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One version of an engine."""

    name: str
    title: str
    version: str
    asked: str | None
    """The version that was asked for, where the profile of another one stands for it."""
    note: str
    proven: bool
    """Whether the profile was compared with the engine itself."""
    ranks: Sequence[PositiveCount] | None
    """The maximum ranks that it can be started with; null if any can be."""
    default_rank: PositiveCount | None
    features: Sequence[FeatureEntry]
    rules: Mapping[str, Outcome]
    """What it does where a rule of validate finds something, by the rule's code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginesReport:
    """What engines do. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/engines/1"] = "lora_cli/engines/1"
    version: Version = __version__
    engines: Sequence[EngineEntry]


def engines_report(profiles: Sequence[Profile]) -> EnginesReport:
    """The report of ``engines``: an entry for each profile, with each feature."""
    return EnginesReport(engines=[_engine(profile) for profile in profiles])


def _engine(profile: Profile) -> EngineEntry:
    engine = profile.engine
    return EngineEntry(
        name=engine.name,
        title=engine.title,
        version=profile.version,
        asked=profile.requested or None,
        note=profile.note,
        proven=profile.proven,
        ranks=engine.ranks or None,
        default_rank=engine.default_rank,
        features=[_feature(name, profile) for name in FEATURES],
        rules=dict(sorted(engine.generic.items())),
    )


def _feature(name: str, profile: Profile) -> FeatureEntry:
    feature, row = FEATURES[name], next((row for row in profile.rows if row.feature == name), None)
    details = ("", "", "", "") if row is None else (row.reason, row.mend, row.evidence, row.proof)
    return FeatureEntry(name, feature.title, feature.outcome(name, profile), *details)
