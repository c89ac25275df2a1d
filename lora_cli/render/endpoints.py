"""Running servers that were warmed, as a table and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from lora_cli.core.text import counted, milliseconds, safe
from lora_cli.endpoint.reconcile import Done
from lora_cli.errors import LoraCliError
from lora_cli.render.json import document, error_fields
from lora_cli.render.text import columns, paint, wrap

NONE = "-"


@dataclass(frozen=True, slots=True)
class Replica:
    """One server: its kind and version, what was done on it, and why that was not all."""

    address: str
    kind: str
    version: str
    done: tuple[Done, ...]
    error: LoraCliError | None = None


def render_endpoints(replicas: Sequence[Replica], refused: Sequence[Done], width: int, *, colour: bool = False) -> str:
    """A table for each server, then what failed, and a line that sums it up."""
    lines: list[str] = []
    for replica in replicas:
        lines += [*_replica(replica, width, colour), ""]
    for one in refused:
        lines += [*_failure(one, width, colour, "no server was asked to load it"), ""]
    return "\n".join([*lines, *wrap(_summary(replicas, refused), width)]) + "\n"


def _replica(replica: Replica, width: int, colour: bool) -> Iterator[str]:
    version = f" {replica.version}" if replica.version else ""
    yield paint(f"{safe(replica.address)} ({safe(replica.kind)}{safe(version)})", "bold", colour=colour)
    if replica.done:
        rows = [(one.name, one.action, milliseconds(one.ms), _effect(one)) for one in replica.done]
        table = columns(("adapter", "action", "ms", "effect"), rows, left=2)
        if all(len(line) <= width for line in table):
            yield from (f"  {line}" if len(line) + 2 <= width else line for line in table)
        else:
            yield from (line for row in rows for line in wrap(f"{safe(row[0])}: {row[1]}, {row[3]}", width, "  ", "  "))
    for one in replica.done:
        if one.error is not None:
            yield from _failure(one, width, colour, "")
    if replica.error is not None:
        yield from _error(replica.error, width)


def _effect(one: Done) -> str:
    return NONE if one.effect is None else one.effect.how


def _failure(one: Done, width: int, colour: bool, note: str) -> Iterator[str]:
    yield f"{safe(one.name)}: {paint('failed', 'red', colour=colour)}{f', {note}' if note else ''}"
    if one.error is not None:
        yield from _error(one.error, width)


def _error(error: LoraCliError, width: int) -> Iterator[str]:
    yield from wrap(safe(error.message), width, "  ", "  ")
    if error.hint:
        yield from wrap(safe(error.hint), width, "    ", "  hint: ")


def _summary(replicas: Sequence[Replica], refused: Sequence[Done]) -> str:
    words = [one.action for replica in replicas for one in replica.done] + [one.action for one in refused]
    told = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "nothing done"
    return f"{counted(len(replicas), 'server')}: {told}"


def render_endpoints_json(replicas: Sequence[Replica], refused: Sequence[Done]) -> str:
    """The document ``lora_cli/endpoints/1``."""
    servers = [
        {
            "address": replica.address,
            "kind": replica.kind,
            "version": replica.version,
            "error": error_fields(replica.error),
            "adapters": [_fields(one) for one in replica.done],
        }
        for replica in replicas
    ]
    return document("endpoints", {"servers": servers, "refused": [_fields(one) for one in refused]})


def _fields(one: Done) -> dict[str, object]:
    effect = one.effect
    return {
        "name": one.name,
        "action": one.action,
        "ms": one.ms,
        "effect": None
        if effect is None
        else {
            "proved": effect.proved,
            "how": effect.how,
            "shift": effect.shift if isfinite(effect.shift) else None,
            "noise": effect.noise if isfinite(effect.noise) else None,
        },
        "error": error_fields(one.error),
    }
