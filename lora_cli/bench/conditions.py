"""Conditions on metrics: ``stall_p99_ms<300`` is a metric, a comparison and a number."""

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite

from lora_cli.bench.metrics import is_share, more_is_better
from lora_cli.bench.report import PolicyMetrics
from lora_cli.core.nearest import did_you_mean
from lora_cli.errors import UsageError

COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A metric compared with a number."""

    metric: str
    comparison: str
    number: float

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.number:g}"

    def holds(self, value: float) -> bool:
        """Whether it is true of this value."""
        return COMPARISONS[self.comparison](value, self.number)


def parse_condition(text: str, flag: str, known: Collection[str]) -> Condition:
    """The condition that ``text`` says, on one of the ``known`` metrics.

    Raises:
        UsageError: it says none, there is no such metric, or it is never above 1 and compared with more.
    """
    for comparison in COMPARISONS:
        metric, found, number = (word.strip() for word in text.partition(comparison))
        if not found:
            continue
        if metric not in known:
            raise UsageError(f"{flag} {text[:80]}: there is no metric {metric[:60]}", hint=did_you_mean(metric, known))
        try:
            value = float(number)
        except ValueError:
            break
        if not isfinite(value):
            break
        if is_share(metric) and value > 1:
            hint = f'{flag} "{metric}{comparison}{min(value / 100, 1.0):g}"'
            raise UsageError(f"{flag} {text[:80]}: {metric} is at most 1", hint=hint)
        return Condition(metric, comparison, value)
    example = next((name for name in sorted(known) if name.endswith("p99_ms")), "hit_ratio")
    raise UsageError(f"{flag} {text[:80]}: must be a metric, < or >, and a number", hint=f'{flag} "{example}>500"')


PLANNED = tuple(one.name for one in fields(PolicyMetrics))


def parse_goals(texts: Sequence[str]) -> tuple[Condition, ...]:
    """``hit_ratio>=0.95``, ``stall_p99_ms<300``, and several of them in one text with commas.

    Raises:
        UsageError: one is no condition, asks for what more slots make false, or for a share above 1.
    """
    goals = tuple(parse_condition(word, "--plan", PLANNED) for text in texts for word in text.split(","))
    for goal in goals:
        if goal.comparison.startswith(">") != more_is_better(goal.metric):
            other = ">=" if more_is_better(goal.metric) else "<"
            raise UsageError(
                f"--plan {goal}: more slots only make that harder", hint=f'--plan "{goal.metric}{other}{goal.number:g}"'
            )
    return goals


def of_waiting(goals: Sequence[Condition]) -> bool:
    """Whether a goal is about how long requests wait, in which those that queue behind other loads matter."""
    return any(goal.metric.startswith("stall_") for goal in goals)
