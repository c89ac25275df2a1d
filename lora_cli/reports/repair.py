"""``repair`` for people: the outcome before and after, the changes, and the proof."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.finding import Outcome
from lora_cli.json_schema import ErrorReport
from lora_cli.repair import ARITHMETIC, RepairReport
from lora_cli.reports.terminal import Paragraph, facts, failure, hints, text
from lora_cli.reports.validate import skipped_checks
from lora_cli.reports.words import Styled, outcome_text
from lora_cli.text import counted

if TYPE_CHECKING:
    from lora_cli.reports.terminal import Parts

WHY: Mapping[str, str] = {
    "base": "--base-name asks for it",
    "files": "engines and PEFT read one file, and some load every such file of a folder; a pickle can run code",
    "names": "engines and PEFT look up tensors by the names that PEFT writes for the base's modules",
    "copies": "engines refuse or ignore them",
    "scales": "every engine reads one rank and one scale for all modules the same way",
}
NO_BASE = "no base: names and shapes not checked; set --base BASE (its config.json is enough)"


@dataclass(frozen=True, slots=True)
class RepairedAdapter:
    """One adapter of a run: its report, or why there is none, and what it alone would end the command with."""

    name: str
    repair: RepairReport | None
    error: ErrorReport | None
    exit_code: int


def human(adapters: Sequence[RepairedAdapter], *, check: bool) -> "Parts":
    """The adapters with something to repair, or the only one, and a summary; with ``check`` nothing was written."""
    outcomes = Counter[str]()
    for one in sorted(adapters, key=lambda one: one.exit_code > 0):
        if one.repair is not None:
            word, _ = outcome = _outcome(one.repair, check=check)
            if len(adapters) == 1 or word != "nothing to repair":
                yield from (*_adapter(one.name, one.repair, outcome), "")
        elif one.error is not None:
            word = "failed"
            yield from (*failure(one.name, word, one.error.message, one.error.hint), "")
        outcomes[word] += 1
    counts = ", ".join(f"{number} {word}" for word, number in outcomes.items())
    yield Paragraph(f"{counted(len(adapters), 'adapter')}: {counts}")


def _adapter(name: str, found: RepairReport, outcome: Styled) -> "Parts":
    yield Paragraph("", text(name, ": ", outcome, f" for {found.after}"))
    after = "" if found.refusals else outcome_text(found.after)
    yield from facts([("before", outcome_text(found.before)), ("after", after)])
    for change in found.changes:
        many = f" ({counted(change.modules, 'module')})" if change.modules else ""
        yield from ("", Paragraph(f"{change.what}{many}", f"{change.step}: ", indent=2))
        yield Paragraph(WHY[change.step], "why: ", indent=4, hanging=9)
    for refusal in found.refusals:
        yield from ("", Paragraph(refusal.message, text(("cannot be repaired losslessly: ", "red")), indent=2))
        yield from hints(refusal.hint, 4)
    for flag in found.flags if not found.refusals else ():
        yield from ("", Paragraph(flag.message, indent=2), *hints(flag.hint))
    yield from skipped_checks(found.skipped)
    yield from hints(NO_BASE, 4) if found.after.applied is None else []
    if found.proof is not None and found.directory is not None:
        where = ("written", found.directory) if found.changes else ("copied", f"{found.directory} (without changes)")
        yield from ("", *facts([("proof", _proof(found.proof)), where]))


def _outcome(found: RepairReport, *, check: bool) -> Styled:
    if found.refusals:
        return "cannot be repaired", "red"
    is_known = found.after.outcome is not Outcome.UNKNOWN
    if not found.changes and found.flags:
        return "needs other flags", "yellow"
    if not found.changes:
        return ("nothing to repair", "green") if is_known else ("nothing found to repair", "yellow")
    return ("would be repaired", "yellow") if check else ("repaired", "green" if is_known else "yellow")


def _proof(worst_change: float) -> str:
    if worst_change <= ARITHMETIC:
        return "every update is the same"
    return f"every update is the same up to rounding: it changed by {worst_change:.2g} of its size at most"
