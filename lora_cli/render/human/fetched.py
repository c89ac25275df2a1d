"""What ``fetch`` says to people."""

from typing import TYPE_CHECKING

from lora_cli.core.snapshot import Snapshot
from lora_cli.core.text import counted, milliseconds, safe, size
from lora_cli.errors import LoraCliError, Refused, UsageError
from lora_cli.fetching.many import Handed, Outcome
from lora_cli.fetching.plan import LeftOut
from lora_cli.render.text import paint, wrap

if TYPE_CHECKING:
    from lora_cli.core.lock import Changes
    from lora_cli.fetching.drift import Drift
    from lora_cli.fetching.publish import Published


def render_line(handed: Handed) -> str:
    """One adapter for standard error: how it went on one line, or what is wrong and, on a second one, what to try."""
    outcome = handed.outcome
    name = safe(outcome.wanted.typed or outcome.wanted.name)
    if outcome.error is not None:
        # What is no reference is named in the message.
        label = "" if isinstance(outcome.wanted.ref, UsageError) else f"{name}: "
        hint = f"\nhint: {safe(outcome.error.hint)}" if outcome.error.hint else ""
        return f"error: {label}{safe(_message(outcome, outcome.error))}{hint}"
    return f"{name}: {_what(handed)}"


def _message(outcome: Outcome, error: LoraCliError) -> str:
    """What is wrong, without the adapter's name, which stands before it."""
    wanted = outcome.wanted
    message = error.message.removeprefix(f"{wanted.ref}: ").removeprefix(f"{wanted.name}: ")
    if wanted.typed:
        message = message.removeprefix(f"{wanted.ref} ")
    return message.removeprefix(f"{wanted.name} ") if isinstance(error, Refused) else message


def render_outcome(handed: Handed, width: int, *, colour: bool = False) -> str:
    """One adapter's block for a terminal: how it went, and where it can be used."""
    outcome = handed.outcome
    name = safe(outcome.wanted.typed or outcome.wanted.name)
    if outcome.error is None:
        what = wrap(f"{name}  {_what(handed)}", width, "  ", "")
        lines = [
            what[0].replace(name, paint(name, "green", colour=colour), 1),
            *what[1:],
            f"  {safe(handed.directory)}",
        ]
    else:
        lines = [f"{paint(name, 'red', colour=colour)}  failed", *wrap(_message(outcome, outcome.error), width, "  ")]
        lines += wrap(f"hint: {outcome.error.hint}", width, "  ") if outcome.error.hint else []
    return "\n".join(lines) + "\n"


def _what(handed: Handed) -> str:
    outcome, fetched = handed.outcome, handed.outcome.fetched
    if fetched is None:
        return "failed"
    how = "in the cache" if fetched.cached else f"fetched in {milliseconds(outcome.ms)} ms"
    more = _left(fetched.left_out) + _for(handed.published)
    which = f"revision {fetched.revision[:12]}" if fetched.revision else f"sha256 {fetched.snapshot.digest[:12]}"
    return f"{describe(fetched.snapshot)}, {how}, {which}{more}"


def _left(left_out: LeftOut | None) -> str:
    """What the origin has beside the adapter's files, and nobody had to wait for."""
    if left_out is None or not left_out.files:
        return ""
    return f", {size(left_out.bytes)} in {counted(left_out.files, 'file')} left out"


def _for(published: "Published | None") -> str:
    """The base that it was published for, and what its config said before."""
    if published is None:
        return ""
    was = f" (its config said {safe(published.was or 'nothing')})" if published.was != published.base else ""
    return f", published for {safe(published.base)}{was}"


def describe(snapshot: Snapshot) -> str:
    """How many files, and how large."""
    return f"{counted(len(snapshot.files), 'file')}, {size(snapshot.size)}"


def render_changes(lock: object, changes: "Changes") -> str:
    """What became of a lock, on one line."""
    told = (("added", changes.added), ("changed", changes.changed), ("dropped", changes.removed))
    return f"{safe(lock)}: " + ", ".join(f"{len(names)} {what}" for what, names in told if names)


def render_drift(drift: "Drift") -> str:
    """One adapter of ``--check`` on one line: what changed since it was locked, or why that cannot be known."""
    name = safe(drift.wanted.name)
    if drift.error is not None:
        hint = f"\nhint: {safe(drift.error.hint)}" if drift.error.hint else ""
        return f"error: {name}: {safe(drift.error.message.removeprefix(f'{drift.wanted.ref}: '))}{hint}"
    return f"{name}: {safe('; '.join(drift.changes)) or 'as locked'}"
