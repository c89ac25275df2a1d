"""Conditions on the metrics of a result, of ``--fail-if``."""

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from lora_cli.bench.report import ConditionResult, PolicyReport
from lora_cli.errors import UsageError
from lora_cli.text import did_you_mean

SHARES = ("hit_ratio", "gap_closed", "attainment")
"""Suffixes of metrics that are at most 1."""


def simulation_metrics(policies: Mapping[str, PolicyReport]) -> dict[str, float | None]:
    """The metrics of all policies, as ``lru.hit_ratio``; where there is one policy, without its name as well.

    ``memory_hit_ratio`` counts the requests that need no disk: their adapter is in a slot or in memory.
    """
    own: Mapping[str, Mapping[str, float | None]] = {
        name: {
            "hit_ratio": one.hit_ratio,
            "memory_hit_ratio": 1 - one.hits_by_tier["disk"] / (one.requests or 1),
            "gap_closed": one.gap_closed,
        }
        for name, one in policies.items()
    }
    found = {f"{name}.{metric}": value for name, metrics in own.items() for metric, value in metrics.items()}
    return found | (dict(*own.values()) if len(own) == 1 else {})


POLICY_METRICS = ("hit_ratio", "memory_hit_ratio", "gap_closed")


def simulation_metric_names(policies: Collection[str]) -> set[str]:
    """The names of the metrics of a simulation of these policies."""
    own = {f"{policy}.{metric}" for policy in policies for metric in POLICY_METRICS}
    return own | set(POLICY_METRICS if len(policies) == 1 else ())


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
            hint = did_you_mean(metric, known)
            if not hint.startswith("did you mean"):
                hint += "; all are listed under metrics in the output of --format json"
            raise UsageError(f"{flag} {text[:80]}: unknown metric {metric[:60]}", hint=hint)
        try:
            value = float(number)
        except ValueError:
            break
        if not isfinite(value):
            break
        if metric.endswith(SHARES) and value > 1:
            hint = f'{flag} "{metric}{comparison}{min(value / 100, 1.0):g}"'
            raise UsageError(f"{flag} {text[:80]}: {metric} is at most 1", hint=hint)
        return Condition(metric, comparison, value)
    example = next((name for name in sorted(known) if name.endswith("p99_ms")), "hit_ratio")
    raise UsageError(f"{flag} {text[:80]}: must be a metric, < or >, and a number", hint=f'{flag} "{example}>500"')


def evaluate_conditions(
    conditions: Sequence[Condition], metrics: Mapping[str, float | None]
) -> tuple[ConditionResult, ...]:
    """Evaluate the conditions of ``--fail-if``: one that is true, or was not measured, fails the run."""
    values = ((one, metrics.get(one.metric)) for one in conditions)
    return tuple(ConditionResult(str(one), value, value is None or one.holds(value)) for one, value in values)
