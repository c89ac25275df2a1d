"""The terminal output of ``repair``: the engine's outcome before and after, the changes, and the proof."""

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from lora_cli.finding import EngineOutcome, Outcome
from lora_cli.render.terminal import Paragraph, facts, hints, text
from lora_cli.render.terminal_validate import skipped_checks
from lora_cli.repair import RepairReport, RepairSetReport, Sameness
from lora_cli.repair.repair import ARITHMETIC
from lora_cli.text import counted, safe

NO_BASE = "no base: names and shapes not checked; set --base BASE (its config.json is enough)"


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
        yield Paragraph(change.why, "why: ", indent=4, hanging=9)
    for refusal in found.refusals:
        yield from ("", Paragraph(refusal.what, text("cannot be repaired losslessly: ", "red"), indent=2))
        yield from hints(refusal.hint, 4)
    for flag in found.flags:
        yield from ("", Paragraph(flag.what, indent=2), *hints(flag.hint))
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


def _proof(same: Sameness) -> str:
    proved = f"{counted(same.modules, 'update')}: "
    if not same.rewritten:
        return f"{proved}bit-identical"
    if same.worst_change <= ARITHMETIC:
        return f"{proved}{same.rewritten} stored differently, none changed in effect"
    worst = f"by {same.worst_change:.2g} of its size at most ({safe(same.worst_module)})"
    allowed = f"{same.allowed_change:.2g}"
    return f"{proved}{same.rewritten} stored differently and changed {worst}, while rounding allows {allowed}"
