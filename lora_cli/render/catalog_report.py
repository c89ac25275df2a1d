"""The reports of ``rules`` and ``engines``, of which JSON is the fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_cli.checks import CHECKS
from lora_cli.checks.check import Check, Need
from lora_cli.engines import Profile
from lora_cli.finding import Outcome, Severity
from lora_cli.json_schema import PositiveCount, RuleCode, Version
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


def rules_report(rules: Sequence[Check]) -> RulesReport:
    """The report of ``rules``."""
    entries = [RuleEntry(one.code, one.name, one.severity, one.needs, one.summary, one.documentation) for one in rules]
    return RulesReport(rules=entries)


@dataclass(frozen=True, slots=True)
class EffectEntry:
    """What an engine does with an adapter in which a check finds something."""

    code: RuleCode
    name: str
    summary: str
    outcome: Outcome
    hint: str
    """How the adapter can be changed, or the engine started, so that it is served right; may be empty."""
    evidence: str
    """The engine's file in which this was read, and whether it was run; may be empty."""


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
    checks: Sequence[EffectEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginesReport:
    """What engines do. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/engines/1"] = "lora_cli/engines/1"
    version: Version = __version__
    engines: Sequence[EngineEntry]


def engines_report(profiles: Sequence[Profile]) -> EnginesReport:
    """The report of ``engines``: an entry for each profile, with each check."""
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
        checks=[_effect(check, profile) for check in CHECKS],
    )


def _effect(check: Check, profile: Profile) -> EffectEntry:
    name = profile.engine.name
    outcome, hint = check.effects[name], check.hint.format(engine=name)
    return EffectEntry(check.code, check.name, check.summary, outcome, hint, check.evidence.get(name, ""))
