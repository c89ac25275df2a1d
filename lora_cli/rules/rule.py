"""What a rule is: one function over a ``Case``, its code, and what it must be able to see."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from lora_cli.core.finding import Finding, Problem, Severity, Skipped
from lora_cli.core.text import cut
from lora_cli.rules.case import Case
from lora_cli.rules.wording import LONGEST_MESSAGE, clipped

Need = Literal["config", "weights", "base", "values", "companions"]


@dataclass(frozen=True, slots=True)
class NotChecked:
    """What a check yields when it finds, on looking, that it cannot tell."""

    reason: str


Check = Callable[[Case], Iterator[Problem | NotChecked]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One check. ``code`` is ``LC`` and three digits and never changes its meaning; ``name`` is the same in words.

    ``needs`` are the things the check reads: without them it is skipped, with the reason, and never passes.
    """

    code: str
    name: str
    severity: Severity
    needs: tuple[Need, ...]
    check: Check

    @property
    def documentation(self) -> str:
        """The function's docstring: what is checked, *Why is this bad?* and *Fix*, as Markdown."""
        from inspect import getdoc

        return getdoc(self.check) or ""

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return self.documentation.partition("\n")[0]

    def matches(self, selector: str) -> bool:
        """Whether ``selector`` means this rule: its name, or its code or the beginning of it (``LC3``)."""
        return selector.lower() == self.name or self.code.startswith(selector.upper())


def rule(code: str, name: str, severity: Severity, needs: tuple[Need, ...] = ()) -> Callable[[Check], Rule]:
    """Make a rule of the function below; it runs once it stands in ``lora_cli.rules.RULES``."""

    def made(check: Check) -> Rule:
        return Rule(code, name, severity, needs, check)

    return made


MOST_OUTCOMES = 200
"""Findings of one rule about one adapter that are told one by one; of the rest there is a count."""


def run(rule: Rule, case: Case) -> Iterator[Finding | Skipped]:
    """What ``rule`` says about ``case``: its findings, or one ``Skipped`` when it cannot see what it needs."""
    for need in rule.needs:
        reason = case.lacks(need)
        if reason:
            yield Skipped(rule.code, rule.name, reason)
            return
    said = rule.check(case)
    for outcome in islice(said, MOST_OUTCOMES):
        yield _outcome(rule, outcome)
    yield from (_outcome(rule, outcome) for outcome in _counted(said))


def _outcome(rule: Rule, said: Problem | NotChecked) -> Finding | Skipped:
    if isinstance(said, NotChecked):
        return Skipped(rule.code, rule.name, cut(said.reason, LONGEST_MESSAGE))
    return Finding(rule.code, rule.name, rule.severity, clipped(said), None)


def _counted(rest: Iterator[Problem | NotChecked]) -> Iterator[Problem | NotChecked]:
    """How many are left of each."""
    unseen = problems = 0
    for said in rest:
        unseen, problems = unseen + isinstance(said, NotChecked), problems + isinstance(said, Problem)
    if problems:
        yield Problem(f"there are {problems} more findings of this rule")
    if unseen:
        yield NotChecked(f"there are {unseen} more of these")
