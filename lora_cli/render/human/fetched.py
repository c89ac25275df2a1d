"""What ``fetch`` says to people."""

from pathlib import Path

from lora_cli.core.snapshot import Snapshot
from lora_cli.fetch.many import Outcome
from lora_cli.render.text import counted, milliseconds, paint, safe, size, wrap


def render_line(outcome: Outcome) -> str:
    """One adapter on one line, for standard error: how it went, or what is wrong and what to try."""
    name = safe(outcome.wanted.name)
    if outcome.error is not None:
        hint = f" ({safe(outcome.error.hint)})" if outcome.error.hint else ""
        return f"error: {name}: {safe(outcome.error.message)}{hint}"
    return f"{name}: {_what(outcome)}"


def render_outcome(outcome: Outcome, directory: Path | None, width: int, *, colour: bool = False) -> str:
    """One adapter's block for a terminal; ``directory`` is where it can be used."""
    name = safe(outcome.wanted.name)
    if outcome.error is None:
        lines = [f"{paint(name, 'green', colour=colour)}  {_what(outcome)}", f"  {safe(directory)}"]
    else:
        lines = [f"{paint(name, 'red', colour=colour)}  failed", *wrap(outcome.error.message, width, "  ")]
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
