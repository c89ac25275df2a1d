"""Conditions on the metrics of a result: of ``--fail-if``, and the goals of ``--plan``."""

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite

from lora_cli.bench.quantiles import SUMMARIES
from lora_cli.bench.report import ConditionResult, PolicyMetrics, PolicyReport
from lora_cli.core.did_you_mean import did_you_mean
from lora_cli.errors import UsageError

POLICY_METRICS = (*(one.name for one in fields(PolicyMetrics)), "gap_closed", "cost_gap_closed")

GOOD_SHARES = ("hit_ratio", "gap_closed", "attainment")
"""Suffixes of metrics that are at most 1, and better when larger."""
SHARES = (*GOOD_SHARES, "stalled_ratio")
MORE_IS_BETTER = (*GOOD_SHARES, "throughput", "goodput", "completed")
"""Suffixes of metrics that are better when larger; all others are better when smaller."""


def is_share(metric: str) -> bool:
    """Whether ``metric`` is a part of a whole, which is at most 1."""
    return metric.endswith(SHARES)


def more_is_better(metric: str) -> bool:
    """Whether a larger value of ``metric`` is the better one."""
    return metric.endswith(MORE_IS_BETTER)


def policy_metrics(one: PolicyReport) -> PolicyMetrics:
    """The metrics of one policy; None if unknown.

    ``memory_hit_ratio`` counts the requests that need no disk: their adapter is in a slot or in memory.
    """
    requests, stall_ms = one.requests or 1, one.stall_ms
    return PolicyMetrics(
        hit_ratio=one.hit_ratio,
        memory_hit_ratio=1 - one.hits_by_tier["disk"] / requests if "disk" in one.hits_by_tier else None,
        miss_cost_ms=one.miss_cost_ms,
        miss_cost_ms_per_request=one.miss_cost_ms_per_request,
        stalled_ratio=one.stalled / requests if stall_ms else None,
        **{f"stall_{share}_ms": stall_ms.get(share) for share in SUMMARIES},
    )


def simulation_metrics(policies: Mapping[str, PolicyReport]) -> dict[str, float | None]:
    """The metrics of all policies, as ``lru.hit_ratio``; where there is one policy, without its name as well."""
    return metrics_by_policy(
        {
            name: asdict(policy_metrics(one)) | {"gap_closed": one.gap_closed, "cost_gap_closed": one.cost_gap_closed}
            for name, one in policies.items()
        }
    )


def metrics_by_policy(policies: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """The metrics of each policy with its name before them; where there is one policy, without its name as well."""
    found = {f"{name}.{metric}": value for name, own in policies.items() for metric, value in own.items()}
    return found | (dict(*policies.values()) if len(policies) == 1 else {})


def simulation_metric_names(policies: Collection[str], metrics: Sequence[str] = POLICY_METRICS) -> set[str]:
    """The names of these metrics of a simulation of these policies."""
    own = {f"{policy}.{metric}" for policy in policies for metric in metrics}
    return own | set(metrics if len(policies) == 1 else ())


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
        if is_share(metric) and value > 1:
            hint = f'{flag} "{metric}{comparison}{min(value / 100, 1.0):g}"'
            raise UsageError(f"{flag} {text[:80]}: {metric} is at most 1", hint=hint)
        return Condition(metric, comparison, value)
    example = next((name for name in sorted(known) if name.endswith("p99_ms")), "hit_ratio")
    raise UsageError(f"{flag} {text[:80]}: must be a metric, < or >, and a number", hint=f'{flag} "{example}>500"')


PLAN_METRICS = tuple(one.name for one in fields(PolicyMetrics))


def parse_goals(texts: Sequence[str]) -> tuple[Condition, ...]:
    """``hit_ratio>=0.95``, ``stall_p99_ms<300``, and several of them in one text with commas.

    Raises:
        UsageError: one is no condition, asks for what more slots make false, or for a share above 1.
    """
    goals = tuple(parse_condition(word, "--plan", PLAN_METRICS) for text in texts for word in text.split(","))
    for goal in goals:
        if goal.comparison.startswith(">") != more_is_better(goal.metric):
            other = ">=" if more_is_better(goal.metric) else "<"
            raise UsageError(
                f"--plan {goal}: more slots only make it worse", hint=f'--plan "{goal.metric}{other}{goal.number:g}"'
            )
    return goals


def has_stall_goal(goals: Sequence[Condition]) -> bool:
    """Whether a goal is about stalls, which depend on the arrival times of requests."""
    return any(goal.metric.startswith("stall_") for goal in goals)


def evaluate_conditions(
    conditions: Sequence[Condition], metrics: Mapping[str, float | None]
) -> tuple[ConditionResult, ...]:
    """Evaluate the conditions of ``--fail-if``: one that is true, or was not measured, fails the run."""
    values = ((one, metrics.get(one.metric)) for one in conditions)
    return tuple(ConditionResult(str(one), value, value is None or one.holds(value)) for one, value in values)
