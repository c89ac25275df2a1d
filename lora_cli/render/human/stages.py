"""A warm run under way, in two lines that fit the terminal: who is in which stage, and how many are through."""

from dataclasses import dataclass

from lora_cli.core.text import cut, duration, safe
from lora_cli.render.human.meter import AMOUNT, NARROWEST_BAR, WIDEST_BAR, Row, bar, render_row


@dataclass(frozen=True, slots=True)
class Stages:
    """A warm run at one moment.

    ``name`` is in ``stage``, and ``row`` is what has come of its bytes, None where none are fetched. ``ended`` of
    ``count`` adapters are ``through`` (accepted, say), ``failed`` of all that were asked for are not and will not be.
    ``seconds`` is how long the run takes by now.
    """

    name: str
    stage: str
    through: str
    ended: int
    count: int
    failed: int
    seconds: float
    row: Row | None = None


def render_stages(stages: Stages, width: int, *, plain: bool = False) -> list[str]:
    """At most two lines of at most ``width`` columns; ``plain`` draws bars with ASCII alone."""
    lines = [_now(stages, width, plain)] if stages.name else []
    return [line[:width].rstrip() for line in (*lines, _sum(stages, width, plain))]


def _now(stages: Stages, width: int, plain: bool) -> str:
    """The adapter at hand with its stage, and with its bytes where there is room for those."""
    name, stage = safe(stages.name), safe(stages.stage)
    room = max(width - len(stage) - 2, 8)
    told = f"{cut(name, room)}  {stage}"
    left = width - len(told) - 2
    if stages.row is None or left < AMOUNT + 1:
        return told
    return f"{told} {render_row(Row('', stages.row.done, stages.row.total), 0, left, plain)}"


def _sum(stages: Stages, width: int, plain: bool) -> str:
    """What there is room for, the most telling first."""
    parts = [f"{stages.ended} of {stages.count} {stages.through}"]
    parts += [f"{stages.failed} failed"] if stages.failed else []
    parts.append(duration(stages.seconds))
    while len(", ".join(parts)) > width and len(parts) > 1:
        parts.pop()
    told = ", ".join(parts)
    room = min(width - len(told) - 1, WIDEST_BAR)
    drawn = bar(Row("", stages.ended, stages.count), room, plain) if room >= NARROWEST_BAR and stages.count > 1 else ""
    return f"{drawn} {told}".lstrip()
