"""What ``repair`` says to people: what the engine did with it and does now, what was changed and why, and the proof."""

from collections.abc import Iterator

from lora_cli.core.engine_outcome import EngineOutcome
from lora_cli.core.text import counted, safe
from lora_cli.render.terminal import rendered
from lora_cli.render.terminal_validate import skipped_checks
from lora_cli.render.text import paint, pairs, wrap
from lora_cli.validation.repaired import Repaired
from lora_cli.validation.sameness import RECKONING, Sameness

NO_BASE = "no base: names and shapes not checked; --base BASE tells them (its config.json is enough)"


def render_repaired(found: Repaired, width: int, *, check: bool, colour: bool = False) -> str:
    """One adapter's block; with ``check`` nothing was to be written."""
    word, style = _outcome(found, check)
    lines = [
        paint(line, style, colour=colour)
        for line in wrap(f"{safe(found.name)}: {word} for {found.after}", width, "  ", "")
    ]
    lines += pairs([("was", _does(found.before)), ("is", _does(found.after) if not found.refusals else "")], width)
    lines += _changes(found, width)
    lines += _refusals(found, width)
    for flag in found.flags:
        lines += ["", *wrap(flag.message, width, "  ", "  "), *wrap(flag.mend, width, "    ", "  hint: ")]
    skipped = skipped_checks([(found.name, one) for one in found.skipped])
    lines += rendered(skipped, width, colour=colour).splitlines()
    if found.after.applied is None:
        lines += wrap(NO_BASE, width, "    ", "    hint: ")
    if found.same is not None:
        lines += ["", *pairs([("proof", _proof(found.same)), ("written", found.directory)], width)]
    return "\n".join(lines) + "\n"


def _outcome(found: Repaired, check: bool) -> tuple[str, str]:
    if found.refusals:
        return "cannot be repaired", "red"
    if not found.changes:
        return ("nothing to repair", "green") if found.after.known else ("nothing found to repair", "yellow")
    if check:
        return "would be repaired", "yellow"
    return "repaired", "green" if found.after.known else "yellow"


def _does(one: EngineOutcome) -> str:
    if not one.known:
        return "not known without a base"
    return one.outcome.label + (f", {one.applied} modules apply" if one.applied is not None else "")


def _changes(found: Repaired, width: int) -> Iterator[str]:
    for change in found.changes:
        many = f" ({counted(change.modules, 'module')})" if change.modules else ""
        yield ""
        yield from wrap(f"{change.what}{many}", width, "    ", f"  {change.step}: ")
        yield from wrap(change.why, width, "         ", "    why: ")


def _refusals(found: Repaired, width: int) -> Iterator[str]:
    for refusal in found.refusals:
        yield ""
        yield from wrap(refusal.what, width, "    ", "  not without changing what it does: ")
        if refusal.hint:
            yield from wrap(refusal.hint, width, "          ", "    hint: ")


def _proof(same: Sameness) -> str:
    if not same.moved:
        return f"{counted(same.modules, 'update')}, all bit by bit as they were"
    if same.worst <= RECKONING:
        return f"{counted(same.modules, 'update')}, {same.moved} of them written anew, none of them changed"
    worst = f"by {same.worst:.2g} of its size at most ({safe(same.module)}), where rounding explains {same.allowed:.2g}"
    return f"{counted(same.modules, 'update')}, {same.moved} of them written anew and changed {worst}"
