"""What ``--plan`` is to reach: conditions on one policy's metrics that more slots or memory can make true."""

from collections.abc import Sequence
from dataclasses import fields

from lora_cli.bench.conditions import Condition, parse_condition
from lora_cli.bench.metrics import more_is_better
from lora_cli.bench.report import PolicyMetrics
from lora_cli.errors import UsageError

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
