"""The terminal output of ``repair``: the engine's outcome before and after, the changes, and the proof."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from rich.console import RenderableType
from rich.text import Text

from lora_cli import __version__
from lora_cli.finding import EngineOutcome, Outcome
from lora_cli.json_schema import ErrorReport, Version
from lora_cli.render.terminal import Paragraph, facts, hints, text
from lora_cli.render.terminal_validate import skipped_checks
from lora_cli.repair import ARITHMETIC, RepairReport
from lora_cli.text import counted, safe

WHY: Mapping[str, str] = {
    "files": "engines and PEFT read one file, and some load every such file of a folder; a pickle can run code",
    "names": "engines and PEFT look up tensors by the names that PEFT writes for the base's modules",
    "base": "--base-name asks for it",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairSetReport:
    """What repair did with all adapters; ``exit_code`` is the largest of theirs."""

    schema: Literal["lora_cli/repair/2"] = "lora_cli/repair/2"
    version: Version = __version__
    adapters: tuple[RepairedAdapter, ...]
    exit_code: int


def repair_parts(report: RepairSetReport, *, check: bool) -> Iterator[RenderableType]:
    """The adapters, and of several the number of each outcome; with ``check`` nothing was written."""
    outcomes = Counter[str]()
    for one in report.adapters:
        if one.repair is not None:
            yield from (*_adapter(one.name, one.repair, check=check), "")
            outcomes[_outcome(one.repair, check)[0]] += 1
        elif one.error is not None:
            yield Paragraph(safe(one.error.message), Text.assemble(safe(one.name), ": ", ("failed: ", "red")))
            yield from (*hints(one.error.hint), "")
            outcomes["failed"] += 1
    counts = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
    yield f"{counted(len(report.adapters), 'adapter')}: {counts}"


def _adapter(name: str, found: RepairReport, *, check: bool) -> Iterator[RenderableType]:
    after = _outcome_text(found.after) if not found.refusals else ""
    yield Paragraph("", Text.assemble(safe(name), ": ", _outcome(found, check), f" for {found.after}"))
    yield from facts([("before", _outcome_text(found.before)), ("after", after)])
    for change in found.changes:
        many = f" ({counted(change.modules, 'module')})" if change.modules else ""
        yield from ("", Paragraph(f"{change.what}{many}", f"{change.step}: ", indent=2))
        yield Paragraph(WHY[change.step], "why: ", indent=4, hanging=9)
    for refusal in found.refusals:
        yield from ("", Paragraph(refusal.message, text("cannot be repaired losslessly: ", "red"), indent=2))
        yield from hints(refusal.hint, 4)
    for flag in found.flags if not found.refusals else ():
        yield from ("", Paragraph(flag.message, indent=2), *hints(flag.hint))
    yield from skipped_checks(found.skipped)
    yield from hints(NO_BASE, 4) if found.after.applied is None else []
    if found.proof is not None and found.directory is not None:
        where = ("written", found.directory) if found.changes else ("copied", f"{found.directory} (without changes)")
        yield from ("", *facts([("proof", _proof(found.proof)), where]))


def _outcome(found: RepairReport, check: bool) -> tuple[str, str]:
    if found.refusals:
        return "cannot be repaired", "red"
    if not found.changes:
        is_known = found.after.outcome is not Outcome.UNKNOWN
        return ("nothing to repair", "green") if is_known else ("nothing found to repair", "yellow")
    if check:
        return "would be repaired", "yellow"
    return "repaired", "yellow" if found.after.outcome is Outcome.UNKNOWN else "green"


def _outcome_text(one: EngineOutcome) -> str:
    if one.outcome is Outcome.UNKNOWN and one.applied is None:
        return "unknown without a base"
    return one.outcome.label + (f", {one.applied} modules apply" if one.applied is not None else "")


def _proof(worst_change: float) -> str:
    if worst_change <= ARITHMETIC:
        return "every update is the same"
    return f"every update is the same up to rounding: it changed by {worst_change:.2g} of its size at most"
