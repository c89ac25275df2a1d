"""What is known before ``validate`` looks: ``--baseline`` and ``--write-baseline``, and what is said of them after."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.cli.output import writable, write
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.validation import Checked
from lora_cli.validation.report import Report

if TYPE_CHECKING:
    from lora_cli.documents.baseline import Baseline


@dataclass(frozen=True, slots=True)
class Known:
    """The baseline that was read, or the file that is to be one; at most one of the two."""

    baseline: "Baseline | None" = None
    new: Path | None = None

    @property
    def where(self) -> str:
        """The file of known findings, if there is one."""
        return self.baseline.where if self.baseline is not None else str(self.new or "")


def known_findings(baseline: Path | None, new: Path | None) -> Known:
    """What ``--baseline`` and ``--write-baseline`` ask for.

    Raises:
        UsageError: both, or a baseline that is wrong.
        NotFound, MachineError: it is not there, or cannot be read or written.
    """
    if baseline is not None and new is not None:
        raise UsageError("--baseline and --write-baseline exclude each other", hint="leave one of them out")
    if new is not None:
        writable(new)
    if baseline is None:
        return Known(None, new)
    from lora_cli.documents.baseline import load_baseline
    from lora_cli.reading.manifest import read_text

    return Known(load_baseline(read_text(baseline, "baseline"), str(baseline)))


def accepting(judged: Iterable[Checked], known: Known, report: Report) -> Iterator[Checked]:
    """Each adapter with what is known of it accepted; ``report`` says what it is called."""
    if not known.where:
        yield from judged
        return
    from lora_cli.validation import acceptance

    for one in judged:
        if known.baseline is not None:
            yield acceptance.known(one, report.identity(one), known.baseline)
        else:
            yield acceptance.all_known(one, known.where)


def settled(report: Report, known: Known, settings: Settings) -> Report:
    """``report`` with what baseline and policies say that is no longer so; a new baseline is written.

    Raises:
        MachineError: it cannot be.
    """
    if not settings.suppressions and not known.where:
        return report
    from lora_cli.validation import acceptance

    named = [(report.identity(one), one) for one in report.checked]
    notices = list(acceptance.idle(named, settings.suppressions, report.rules, acceptance.today()))
    if known.baseline is not None:
        notices += acceptance.stale(named, known.baseline, [rule.code for rule in report.rules])
    if known.new is not None:
        _write(report, known.new)
    return replace(report, baseline=known.where, notices=tuple(notices))


def _write(report: Report, file: Path) -> None:
    from lora_cli.documents.baseline import render_baseline
    from lora_cli.validation.acceptance import entry_of

    found = report.found()
    known = [(one, finding) for one, finding in found if finding.accepted and finding.accepted.by == "baseline"]
    write(render_baseline(entry_of(report.identity(one), finding) for one, finding in known), file)
