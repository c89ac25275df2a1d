"""What changed since an older result, and what a run is failed for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_cli.bench.conditions import Condition
from lora_cli.bench.metrics import more_is_better
from lora_cli.bench.result_file import HINT, read_result
from lora_cli.core import parse
from lora_cli.errors import FormatError, UsageError

SAME = 0.02
"""A change by less than this part of the older value is none."""

ChangeVerdict = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True)
class Change:
    """One metric before and now."""

    metric: str
    before: float
    now: float

    @property
    def by(self) -> float | None:
        """The change as a part of the older value; None where that is 0."""
        return (self.now - self.before) / abs(self.before) if self.before else None

    @property
    def verdict(self) -> ChangeVerdict:
        """``better``, ``worse`` or ``same``."""
        if abs(self.now - self.before) <= SAME * abs(self.before):
            return "same"
        return "better" if (self.now > self.before) == more_is_better(self.metric) else "worse"


@dataclass(frozen=True, slots=True)
class Judged:
    """One ``--fail-if``: the metric's value in this run (None: there is none), and whether the run fails for it."""

    condition: Condition
    value: float | None

    @property
    def failed(self) -> bool:
        """Whether the condition is true."""
        return self.value is not None and self.condition.holds(self.value)

    def __str__(self) -> str:
        told = "there is no value" if self.value is None else f"it is {self.value:.6g}"
        return f"{self.condition}: {told}"


def changes(before: Mapping[str, float], now: Mapping[str, float | None]) -> tuple[Change, ...]:
    """What both results have, in the order of this one."""
    pairs = ((metric, before.get(metric), value) for metric, value in now.items())
    return tuple(Change(metric, old, new) for metric, old, new in pairs if old is not None and new is not None)


def judged(conditions: Sequence[Condition], metrics: Mapping[str, float | None]) -> tuple[Judged, ...]:
    """Each condition beside what it is about."""
    return tuple(Judged(one, metrics.get(one.metric)) for one in conditions)


def read_baseline(file: Path) -> dict[str, float]:
    """The metrics of an older result: its ``metrics``, or (of another tool's result) every number at its top.

    Raises:
        NotFound: there is no such file.
        UsageError: it is no result.
        MachineError: it cannot be read.
    """
    document = read_result(file, "--baseline")
    try:
        found = parse.mapping(document.get("metrics", document), f"{file}: metrics")
    except FormatError as error:
        raise UsageError(f"--baseline {error.message}", hint=HINT) from error
    numbers = {name: float(value) for name, value in found.items() if type(value) in (int, float)}
    if not numbers:
        raise UsageError(f"--baseline {file}: there are no numbers in it", hint=HINT)
    return numbers
