"""One kind of check: a function that finds one thing, with what PEFT and the engines make of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import getdoc
from itertools import islice
from typing import Literal

from lora_cli.checks.case import Case, On, on_engine
from lora_cli.engines.profile import Profile
from lora_cli.finding import (
    Effect,
    Effects,
    EngineOutcome,
    Finding,
    Location,
    Outcome,
    Problem,
    Severity,
    Skipped,
)
from lora_cli.text import by_key, counted, cut, names

OK, UNKNOWN, WRONG, CRASHES, REJECTS = Outcome

LONGEST_MESSAGE = 2000
MOST_GROUPS = 20
"""How many messages of one check are told each with its modules; the rest is counted."""
MOST_PROBLEMS = 200
"""How many problems of one check about one adapter are reported; the rest is counted."""

MERGE = "merge it into the base (merge_and_unload of PEFT) and serve that as a model, or train without it"
SAVE_AGAIN = "save the adapter again"

Need = Literal["config", "weights", "base", "values", "companions"]


@dataclass(frozen=True, slots=True)
class NotChecked:
    """A check could not decide."""

    reason: str


Problems = Iterator[Problem | NotChecked]


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One check. ``code`` is ``LC`` and three digits and never changes its meaning; ``name`` is a name for it.

    ``needs`` are what it looks at: if one is missing it is skipped with the reason, and never passes. ``effects`` are
    what engines do with an adapter that has the problem. ``floor`` is the severity of a problem that all engines serve
    right; None: it is not reported then. ``hint`` is the fix, ``{engine}`` in it the engine that minds most.
    ``evidence`` says for an engine in which of its files that was read, and whether it was run. ``find`` is called with
    the case, and if it has a second parameter with each engine.
    """

    code: str
    name: str
    needs: tuple[Need, ...]
    effects: Effects
    floor: Severity | None
    hint: str
    evidence: Mapping[str, str]
    find: Callable[..., Problems]

    @property
    def documentation(self) -> str:
        """The function's docstring: what is wrong and why that is bad, and the fix, as Markdown."""
        fix = f"\n\n*Fix*: {self.hint.format(engine='ENGINE')}." if self.hint else ""
        return (getdoc(self.find) or "") + fix

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.documentation.partition("\n")[0]

    @property
    def severity(self) -> Severity:
        """The highest severity that a finding of it has: an error if any engine does not serve the adapter right."""
        worst = max(max(each.values()) if isinstance(each, Mapping) else each for each in self.effects.values())
        return Severity.ERROR if worst > UNKNOWN else Severity.WARNING if self.floor is None else self.floor

    def matches(self, selector: str) -> bool:
        """Whether ``selector`` is the name of this check, its code, or a prefix of its code (``LC3``)."""
        return selector.lower() == self.name or self.code.startswith(selector.upper())

    def matters_to(self, profile: Profile) -> bool:
        """Whether an engine minds what this finds: without it the outcome is unknown."""
        return profile.effect(self.effects[profile.engine.name]) > OK


def check(
    code: str,
    name: str,
    *needs: Need,
    peft: Effect = OK,
    vllm: Effect | None = None,
    sglang: Effect | None = None,
    floor: Severity | None = Severity.WARNING,
    hint: str = "",
    evidence: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Problems]], Check]:
    """The decorator that makes a function a check; ``lora_cli.checks.CHECKS`` collects them.

    PEFT owns the format: its effect is that of an engine for which none is given. A problem may carry its own effects.
    """
    effects = {"peft": peft, "vllm": peft if vllm is None else vllm, "sglang": peft if sglang is None else sglang}
    return lambda find: Check(code, name, needs, effects, floor, hint, evidence or {}, find)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What all checks say of one adapter, and what each engine does with it; ``case`` is as the engines see it."""

    case: Case
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]
    engines: tuple[EngineOutcome, ...]


def judge(case: Case, engines: Sequence[Profile], checks: Iterable[Check]) -> Judgement:
    """What ``checks`` find, and what each engine makes of that; pure, the only place where the three meet.

    Without engines the adapter is judged by what PEFT does, and what only engines mind is not looked at. An engine's
    outcome is the worst effect of a finding, unknown if nothing is found and a check that matters to it was skipped.
    """
    named, adapter = case, case.adapter
    if adapter.pairs and adapter.config is not None and any(not one.engine.reads_peft_type for one in engines):
        case = replace(case, as_lora=not case.is_lora)
    ons = [on_engine(named if one.engine.reads_peft_type else case, one) for one in engines]
    told = [(one, each) for one in checks for each in _run(one, case, ons)]
    found = [each for _, each in told if isinstance(each, Finding)]
    skipped = [(one, each) for one, each in told if isinstance(each, Skipped)]
    outcomes = tuple(_outcome(on, found, skipped) for on in ons)
    rejected = {one.asked for one in outcomes if one.outcome is REJECTS}
    # What an engine does is not unknown if it refuses the adapter anyway.
    kept = (
        one for one in found if not one.effects or max(one.effects.values()) > UNKNOWN or one.effects.keys() - rejected
    )
    return Judgement(case, tuple(kept), tuple(each for _, each in skipped), outcomes)


def _outcome(on: On, found: Iterable[Finding], skipped: Iterable[tuple[Check, Skipped]]) -> EngineOutcome:
    by_effect = by_key((one.effects[on.key], one.problem.message) for one in found if on.key in one.effects)
    outcome = max(by_effect, default=OK)
    why = next((each.reason for one, each in skipped if one.matters_to(on.profile)), "") if outcome is OK else ""
    notes = (on.profile.note, *(by_effect.get(UNKNOWN, ()) if outcome is UNKNOWN else ()), why)
    return EngineOutcome(
        engine=on.name,
        title=on.profile.engine.title,
        version=on.profile.requested or None,
        profile=on.profile.version,
        note="; ".join(dict.fromkeys(filter(None, notes))),
        outcome=UNKNOWN if why else outcome,
        applied=on.applied,
    )


def _run(one: Check, case: Case, ons: Sequence[On]) -> Iterator[Finding | Skipped]:
    """The findings of a check, or one ``Skipped`` if what it needs is missing."""
    asked = ons or [On(_peft(), asked=False)]
    minding = [on for on in asked if one.floor is not None or one.matters_to(on.profile)]
    if not minding or (one.floor is None and case.foreign is not None and not case.adapter.pairs):
        return
    if reason := next(filter(None, map(case.why_missing, one.needs)), ""):
        yield Skipped(one.code, one.name, reason)
        return
    by_engine = one.find.__code__.co_argcount == 2
    told: dict[Problem, dict[str, Outcome]] = {}
    for number, on in enumerate(minding if by_engine else minding[:1]):
        for problem in _first(one.find(case, on) if by_engine else one.find(case)):
            if isinstance(problem, Problem):
                effects = told.setdefault(problem, {})
                for each in [on] if by_engine else asked:
                    effect = each.profile.effect(problem.effects.get(each.name, one.effects[each.name]))
                    effects[each.key] = max(effect, effects.get(each.key, OK))
            elif number == 0:
                yield Skipped(one.code, one.name, cut(problem.reason, LONGEST_MESSAGE))
    for problem, effects in told.items():
        if one.floor is not None or max(effects.values()):
            yield _finding(one, problem, effects, asked)


def _finding(one: Check, problem: Problem, effects: Mapping[str, Outcome], asked: Sequence[On]) -> Finding:
    """The finding of a problem, with what the engines do at the end of its message."""
    worst = max(effects.values())
    severity = Severity.ERROR if worst > UNKNOWN else Severity.WARNING if one.floor is None else one.floor
    minding = [on for on in asked if effects.get(on.key)]
    does = (f"{on.profile.title} {effects[on.key].phrase}" for on in minding if on.asked and effects[on.key] > UNKNOWN)
    hint = problem.hint or one.hint.format(engine=next((on.name for on in minding if effects[on.key] is worst), ""))
    told = Problem(
        cut("; ".join([cut(problem.message, LONGEST_MESSAGE), *does]), LONGEST_MESSAGE),
        Location(cut(problem.at.file, LONGEST_MESSAGE), cut(problem.at.field, LONGEST_MESSAGE)),
        cut(hint, LONGEST_MESSAGE),
    )
    return Finding(
        one.code, one.name, severity, told, None, effects={on.key: effects[on.key] for on in minding if on.asked}
    )


def _first(problems: Problems) -> Problems:
    """The first of the problems, and for the rest one with their number, and one for what was not checked."""
    yield from islice(problems, MOST_PROBLEMS)
    counts = Counter(map(type, problems))
    if more := counts[Problem]:
        yield Problem(f"there are {more} more findings of this check")
    if more := counts[NotChecked]:
        yield NotChecked(f"{more} more of these")


def _peft() -> Profile:
    from lora_cli.engines import peft

    return Profile(peft.ENGINE, peft.ENGINE.versions[-1])


def shape(dims: Iterable[int]) -> str:
    """``[64, 8]``."""
    return f"[{', '.join(str(dim) for dim in dims)}]"


def grouped(
    messages: Iterable[tuple[str, str]], file: str, noun: str, hint: str = "", effects: Effects | None = None
) -> Iterator[Problem]:
    """One problem per message instead of one per module.

    ``messages`` are (message, name) pairs; a message for many names is reported once, with the first names. At most
    ``MOST_GROUPS`` are reported, and one more counts the rest. Without a ``file`` the names are those of files.
    """
    groups, own = list(by_key(messages).items()), effects or {}
    for message, found in groups[:MOST_GROUPS]:
        where = f" ({counted(len(found), noun)}: {names(found)})" if len(found) > 1 else f" ({cut(found[0])})"
        yield Problem(message + where, Location(file, cut(found[0])) if file else Location(cut(found[0])), hint, own)
    if len(groups) > MOST_GROUPS:
        rest = sum(len(found) for _, found in groups[MOST_GROUPS:])
        at = Location(file or cut(groups[-1][1][0]))
        yield Problem(f"the same for {counted(rest, 'more ' + noun)}", at, hint, own)
