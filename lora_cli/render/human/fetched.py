"""What ``fetch`` says to people."""

from pathlib import Path

from lora_cli.core.lock import Changes
from lora_cli.core.snapshot import Snapshot
from lora_cli.errors import LoraCliError, Refused, UsageError
from lora_cli.fetch.drift import Drift
from lora_cli.fetch.many import Outcome
from lora_cli.render.text import counted, milliseconds, paint, safe, size, wrap


def render_line(outcome: Outcome) -> str:
    """One adapter for standard error: how it went on one line, or what is wrong and, on a second one, what to try."""
    name = safe(outcome.wanted.name)
    if outcome.error is not None:
        # What is no reference is named in the message.
        label = "" if isinstance(outcome.wanted.ref, UsageError) else f"{name}: "
        hint = f"\nhint: {safe(outcome.error.hint)}" if outcome.error.hint else ""
        return f"error: {label}{safe(_message(outcome, outcome.error))}{hint}"
    return f"{name}: {_what(outcome)}"


def _message(outcome: Outcome, error: LoraCliError) -> str:
    """What is wrong, without the adapter's name, which stands before it."""
    message = error.message.removeprefix(f"{outcome.wanted.ref}: ").removeprefix(f"{outcome.wanted.name}: ")
    return message.removeprefix(f"{outcome.wanted.name} ") if isinstance(error, Refused) else message


def render_outcome(outcome: Outcome, directory: Path | None, width: int, *, colour: bool = False) -> str:
    """One adapter's block for a terminal; ``directory`` is where it can be used."""
    name = safe(outcome.wanted.name)
    if outcome.error is None:
        lines = [f"{paint(name, 'green', colour=colour)}  {_what(outcome)}", f"  {safe(directory)}"]
    else:
        lines = [f"{paint(name, 'red', colour=colour)}  failed", *wrap(_message(outcome, outcome.error), width, "  ")]
        lines += wrap(f"hint: {outcome.error.hint}", width, "  ") if outcome.error.hint else []
    return "\n".join(lines) + "\n"


def _what(outcome: Outcome) -> str:
    fetched = outcome.fetched
    if fetched is None:
        return "failed"
    how = "in the cache" if fetched.cached else f"fetched in {milliseconds(outcome.ms)} ms"
    return f"{describe(fetched.snapshot)}, {how}, revision {fetched.revision[:12]}"


def describe(snapshot: Snapshot) -> str:
    """How many files, and how large."""
    return f"{counted(len(snapshot.files), 'file')}, {size(snapshot.size)}"


def render_changes(lock: Path, changes: Changes) -> str:
    """What became of a lock, on one line."""
    told = (("added", changes.added), ("changed", changes.changed), ("dropped", changes.removed))
    return f"{safe(lock)}: " + ", ".join(f"{len(names)} {what}" for what, names in told if names)


def render_drift(drift: Drift) -> str:
    """One adapter of ``--check`` on one line: what changed since it was locked, or why that cannot be known."""
    name = safe(drift.wanted.name)
    if drift.error is not None:
        hint = f"\nhint: {safe(drift.error.hint)}" if drift.error.hint else ""
        return f"error: {name}: {safe(drift.error.message.removeprefix(f'{drift.wanted.ref}: '))}{hint}"
    return f"{name}: {safe('; '.join(drift.changes)) or 'as locked'}"
