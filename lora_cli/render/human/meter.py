"""A fetch under way, in a few lines that fit the terminal: who is on it, how far it is, how fast, how long still."""

from dataclasses import dataclass

from lora_cli.core.text import cut, duration, safe, size

AMOUNT = len("1023.9 MiB of 1023.9 MiB")
NARROWEST_BAR, WIDEST_BAR = 8, 30


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter under way: ``done`` bytes of ``total`` (None: not known)."""

    name: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Meter:
    """A fetch at one moment.

    ``ended`` of ``count`` adapters are through. ``done`` bytes of ``expected`` are here, which is an estimate while not
    every adapter's size is known (``exact``). ``per_s`` bytes came in each of the last seconds.
    """

    rows: tuple[Row, ...]
    ended: int
    count: int
    done: int
    expected: int
    exact: bool
    per_s: float


def render_meter(meter: Meter, width: int, height: int, *, plain: bool = False) -> list[str]:
    """At most ``height`` lines of at most ``width`` columns: adapters, how many more, and the sum of all.

    ``plain`` draws bars with ASCII alone.
    """
    room = max(height - 1, 0)
    shown = meter.rows if len(meter.rows) <= room else meter.rows[: max(room - 1, 0)]
    column = min(max((len(safe(row.name)) for row in shown), default=0), max(width - AMOUNT - 1, 12))
    lines = [render_row(row, column, width, plain) for row in shown]
    if len(shown) < len(meter.rows) and room:
        lines.append(f"and {len(meter.rows) - len(shown)} more")
    return [line[:width].rstrip() for line in (*lines, _sum(meter, width))]


def render_row(row: Row, column: int, width: int, plain: bool) -> str:
    """One adapter, its name in ``column`` columns, a bar where there is room, and its bytes."""
    amount = size(row.done) if row.total is None else f"{size(row.done)} of {size(row.total)}"
    room = min(width - column - AMOUNT - 2, WIDEST_BAR)
    drawn = f" {bar(row, room, plain)}" if room >= NARROWEST_BAR else ""
    return f"{cut(safe(row.name), column):<{column}}{drawn} {amount:>{AMOUNT}}"


def bar(row: Row, width: int, plain: bool) -> str:
    """How far something is, in ``width`` columns."""
    full, empty = ("#", "-") if plain else ("━", "─")
    filled = 0 if not row.total else min(width * row.done // row.total, width)
    return full * filled + empty * (width - filled)


def _sum(meter: Meter, width: int) -> str:
    """What there is room for, the most telling first."""
    about = "" if meter.exact else "~"
    parts = [f"{meter.ended} of {meter.count} adapters"] if meter.count > 1 else []
    parts.append(f"{size(meter.done)} of {about}{size(meter.expected)}")
    parts.append(f"{size(int(meter.per_s))}/s")
    left = meter.expected - meter.done
    if meter.per_s >= 1 and left > 0:
        parts.append(f"{about}{duration(left / meter.per_s)} left")
    while len(", ".join(parts)) > width and len(parts) > 1:
        parts.pop()
    return ", ".join(parts)
