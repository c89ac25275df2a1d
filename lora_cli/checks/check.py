"""One kind of check: a function that finds one thing, with what PEFT and the engines make of it."""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from itertools import islice
from typing import Literal

from lora_cli.checks.case import Case, On, on_engine
from lora_cli.engines import ENGINES, Profile, choose_engine
from lora_cli.errors import UsageError
from lora_cli.finding import Effects, EngineOutcome, Finding, Location, Outcome, Problem, Severity, Skipped
from lora_cli.text import by_key, counted, cut, names, nearest, words_of

OK, UNKNOWN, WRONG, CRASHES, REJECTS = Outcome
ALL_OK = dict.fromkeys(ENGINES, OK)

LONGEST_MESSAGE = 2000
MOST_GROUPS = 20
"""How many messages of one check are told each with its modules; the rest is counted."""
MOST_PROBLEMS = 200
"""How many problems of one check about one adapter are reported."""

MERGE = "merge it into the base (merge_and_unload of PEFT) and serve that as a model, or train without it"
SAVE_AGAIN = "save the adapter again"

Need = Literal["config", "weights", "base", "values", "companions"]


class NotChecked(str):
    """Why a check could not decide."""

    __slots__ = ()


Problems = Iterator[Problem | NotChecked]


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One check. ``code`` is ``LC`` and three digits and never changes its meaning; ``name`` is a name for it.

    ``needs`` are what it looks at: if one is missing it is skipped. ``effects`` are what engines do with an adapter
    that has the problem. ``floor`` is the severity where all engines serve it right; None: it is not reported then.
    ``hint`` is the fix, ``{engine}`` in it the engine that minds most. ``evidence`` says for an engine in which of its
    files that was read, and whether it was run. ``find`` is called with the case, and with each engine if it takes two.
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
        return self.severity_of(max(self.effects.values()))

    def severity_of(self, worst: Outcome) -> Severity:
        """The severity of a finding by what the engine that minds most does."""
        return Severity.ERROR if worst > UNKNOWN else Severity.WARNING if self.floor is None else self.floor


CHECKS: list[Check] = []
"""All checks, in the order in which they are run and listed: by code."""

UNREAD = frozenset({"LC101", "LC102", "LC105", "LC106", "LC107", "LC108", "LC109"})
"""Checks that report why a config or weights were not read. They always run: others are skipped, which is not ok."""

ON_REQUEST = frozenset({"LC605"})
"""Checks that hold of nearly every adapter: they run where ``--select`` or a policy asks for them."""


def check(
    code: str,
    name: str,
    *needs: Need,
    floor: Severity | None = Severity.WARNING,
    hint: str = "",
    evidence: Mapping[str, str] | None = None,
    **effects: Outcome,
) -> Callable[[Callable[..., Problems]], Check]:
    """The decorator that makes a function a check, one of ``CHECKS``; ``effects`` are by engine, as in ``vllm=WRONG``.

    PEFT owns the format: its effect is that of an engine for which none is given. A problem may carry its own effects.
    """
    all_effects = {engine: effects.get(engine, effects.get("peft", OK)) for engine in ENGINES}

    def made(find: Callable[..., Problems]) -> Check:
        one = Check(code, name, needs, all_effects, floor, hint, evidence or {}, find)
        insort(CHECKS, one, key=lambda other: other.code)
        return one

    return made


def find(selector: str) -> tuple[Check, ...]:
    """The checks that a selector matches: a code, a prefix of codes (``LC3``), or a name.

    Raises:
        UsageError: it matches none.
    """
    found = tuple(one for one in CHECKS if selector.lower() == one.name or one.code.startswith(selector.upper()))
    if not found or not selector:
        close = nearest(selector, [word for one in CHECKS for word in (one.code, one.name)])
        hint = f"did you mean {close}?" if close else "lora-cli rules lists them all"
        raise UsageError(f"unknown rule {selector!r}", hint=hint)
    return found


def choose(select: Iterable[str] = (), ignore: Iterable[str] = (), *, pinned: bool = False) -> tuple[Check, ...]:
    """The checks of ``select`` and ``UNREAD`` without those of ``ignore``, in order of code.

    Without ``select`` all but those that are on request; also these if everything must be ``pinned``. Each entry may
    contain several selectors, separated by commas.

    Raises:
        UsageError: a selector matches no check.
    """
    wanted, unwanted = ({one for word in words_of(words) for one in find(word)} for words in (select, ignore))
    wanted |= {one for one in CHECKS if (one.code in UNREAD if select else pinned or one.code not in ON_REQUEST)}
    return tuple(one for one in CHECKS if one in wanted - unwanted)


def judge(
    case: Case, engines: Iterable[Profile], checks: Iterable[Check]
) -> tuple[list[Finding], list[Skipped], tuple[EngineOutcome, ...]]:
    """What ``checks`` find, which were skipped, and what each engine makes of that; pure, the only place they meet.

    Without engines the adapter is judged by what PEFT does, and what only engines mind is not looked at. An engine's
    outcome is the worst effect of a finding, unknown if nothing is found and a check that matters to it was skipped.
    """
    ons = [on_engine(case, profile) for profile in engines]
    told = [(one, each) for one in checks for each in _run(one, case, ons or [On(choose_engine("peft"), asked=False)])]
    found = [each for _, each in told if isinstance(each, Finding)]
    skipped = [(one, each) for one, each in told if isinstance(each, Skipped)]
    outcomes = []
    for on in ons:
        by_effect = by_key((one.effects[on.key], one.problem.message) for one in found if on.key in one.effects)
        outcome = max(by_effect, default=OK)
        why = next((each.reason for one, each in skipped if outcome is OK and one.effects[on.name]), "")
        notes = (*(by_effect[UNKNOWN] if outcome is UNKNOWN else ()), why)
        outcomes.append(
            EngineOutcome(
                engine=on.name,
                title=on.profile.engine.title,
                version=on.profile.requested or None,
                profile=on.profile.version,
                note="; ".join(dict.fromkeys(filter(None, notes))),
                outcome=UNKNOWN if why else outcome,
                applied=on.applied,
            )
        )
    rejected = {one.asked for one in outcomes if one.outcome is REJECTS}
    # What an engine does is not unknown if it refuses the adapter anyway.
    kept = [
        one for one in found if not one.effects or max(one.effects.values()) > UNKNOWN or one.effects.keys() - rejected
    ]
    return kept, [each for _, each in skipped], tuple(outcomes)


def _run(one: Check, case: Case, ons: Sequence[On]) -> Iterator[Finding | Skipped]:
    """The findings of a check, or one ``Skipped`` if what it needs is missing."""
    minding = [on for on in ons if one.floor is not None or one.effects[on.name]]
    if not minding or (one.floor is None and case.foreign is not None and not case.adapter.pairs):
        return
    if reason := next(filter(None, map(case.why_missing, one.needs)), ""):
        yield Skipped(one.code, one.name, reason)
        return
    by_engine = one.find.__code__.co_argcount == 2
    told: dict[Problem, dict[str, Outcome]] = {}
    for on in minding if by_engine else minding[:1]:
        for problem in islice(one.find(case, on) if by_engine else one.find(case), MOST_PROBLEMS):
            if isinstance(problem, Problem):
                effects = told.setdefault(problem, {})
                for each in [on] if by_engine else ons:
                    effect = problem.effects.get(each.name, one.effects[each.name])
                    effects[each.key] = max(effect, effects.get(each.key, OK))
            elif on is minding[0]:
                yield Skipped(one.code, one.name, cut(problem, LONGEST_MESSAGE))
    for problem, effects in told.items():
        worst = max(effects.values())
        if one.floor is None and worst is OK:
            continue
        does = {on.key: effects[on.key] for on in ons if on.asked and effects.get(on.key)}
        phrases = (f"{on.profile.title} {does[on.key].phrase}" for on in ons if does.get(on.key, OK) > UNKNOWN)
        minds = next((on.name for on in ons if worst and effects.get(on.key) is worst), "")
        shown = Problem(
            "; ".join([cut(problem.message, LONGEST_MESSAGE), *phrases]),
            Location(cut(problem.at.file, LONGEST_MESSAGE), cut(problem.at.field, LONGEST_MESSAGE)),
            cut(problem.hint or one.hint.format(engine=minds), LONGEST_MESSAGE),
        )
        yield Finding(one.code, one.name, one.severity_of(worst), shown, None, effects=does)


def shape(dims: Iterable[int]) -> str:
    """``[64, 8]``."""
    return f"[{', '.join(str(dim) for dim in dims)}]"


def grouped(
    messages: Iterable[tuple[str, str]], file: str, noun: str, effects: Effects | None = None
) -> Iterator[Problem]:
    """One problem per message instead of one per module.

    ``messages`` are (message, name) pairs; a message for many names is reported once, with the first names. At most
    ``MOST_GROUPS`` are reported, and one more counts the rest. Without a ``file`` the names are those of files.
    """
    groups, own = list(by_key(messages).items()), effects or {}
    for message, found in groups[:MOST_GROUPS]:
        where = f" ({counted(len(found), noun)}: {names(found)})" if len(found) > 1 else f" ({cut(found[0])})"
        yield Problem(message + where, Location(file, cut(found[0])) if file else Location(cut(found[0])), effects=own)
    if len(groups) > MOST_GROUPS:
        rest = sum(len(found) for _, found in groups[MOST_GROUPS:])
        at = Location(file or cut(groups[-1][1][0]))
        yield Problem(f"the same for {counted(rest, 'more ' + noun)}", at, effects=own)
