"""What a server that stays up holds, as ``warm --status`` prints it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_cli.core import parse
from lora_cli.core.text import counted, duration, safe, size
from lora_cli.render.text import columns, paint, wrap

NONE = "-"
NARROW = 72
STALE_S = 2.0


def render_status(status: Mapping[str, Any], width: int, *, colour: bool = False) -> str:
    """The process, its tiers, its adapters, and why some fail.

    ``status`` is the document ``lora_cli/status/1``, of a server that may be another version: what is missing is ``-``.
    """
    adapters = parse.objects(status, "adapters")
    lines = [*wrap(_process(status, colour), width), *wrap(_tiers(status), width)]
    if adapters:
        lines += ["", *_listed(adapters, width, colour)]
    for one in adapters:
        if one.get("error"):
            lines += ["", *_failure(one, width, colour)]
    return "\n".join(lines) + "\n"


def _process(status: Mapping[str, Any], colour: bool) -> str:
    word = paint("ready", "green", colour=colour) if status.get("ready") else paint("not ready", "red", colour=colour)
    up, starts = status.get("up_s"), status.get("child_starts")
    parts = [
        f"{safe(status.get('base', NONE))}: {word}",
        f"{safe(status.get('device') or NONE)} {safe(status.get('dtype') or '')}".rstrip(),
        f"up {duration(up)}" if isinstance(up, int | float) else "",
        f"started {starts} times" if isinstance(starts, int) and starts > 1 else "",
        f"{status['queued']} on their way" if status.get("queued") else "",
    ]
    return ", ".join(part for part in parts if part)


def _tiers(status: Mapping[str, Any]) -> str:
    parts = []
    for name, tier in (status.get("tiers") or {}).items():
        held = f"{tier.get('adapters')} of {tier.get('most')}"
        did = f"{counted(tier.get('hits', 0), 'hit')}, {counted(tier.get('evictions', 0), 'eviction')}"
        parts.append(f"{safe(name)}: {held}, {size(tier.get('bytes', 0))}, {did}")
    age_s = status.get("tiers_age_s")
    if isinstance(age_s, int | float) and age_s > STALE_S:
        parts.append(f"as of {duration(age_s)} ago: the process that owns the device does not answer")
    return "; ".join(parts)


def _listed(adapters: Sequence[Mapping[str, Any]], width: int, colour: bool) -> list[str]:
    header = ("adapter", "tier", "state", "rank", "bytes", "requests", "worst error")
    table = columns(header, [_row(one) for one in adapters], left=3)
    if width >= NARROW and all(len(line) <= width for line in table):
        return [paint(table[0], "bold", colour=colour), *table[1:]]
    return [
        line
        for one in adapters
        for line in wrap(
            f"{safe(one.get('name'))}: {safe(one.get('tier'))}, {state(one)}, "
            f"{counted(one.get('requests') or 0, 'request')}",
            width,
        )
    ]


def _row(one: Mapping[str, Any]) -> tuple[object, ...]:
    rank, bytes_, worst = one.get("rank"), one.get("bytes"), one.get("worst_error")
    return (
        one.get("name"),
        one.get("tier"),
        state(one),
        NONE if rank is None else rank,
        size(bytes_) if bytes_ else NONE,
        one.get("requests", NONE),
        NONE if worst is None else f"{worst:.1e}",
    )


def state(one: Mapping[str, Any]) -> str:
    """One word for how it is."""
    if one.get("error"):
        return "failing"
    return ("pinned" if one.get("pinned") else "proved") if one.get("proved") else "waiting"


def _failure(one: Mapping[str, Any], width: int, colour: bool) -> Iterator[str]:
    where = f" at {safe(one['stage'])}" if one.get("stage") else ""
    again = f", tried again in {duration(one['retry_in_s'])}" if one.get("retry_in_s") else ""
    yield f"{safe(one.get('name'))}: {paint(f'failed{where}', 'red', colour=colour)}{again}"
    yield from wrap(safe(one["error"]), width, "  ", "  ")
    if one.get("hint"):
        yield from wrap(safe(one["hint"]), width, "    ", "  hint: ")
