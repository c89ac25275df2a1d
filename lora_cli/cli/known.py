"""What is known before ``validate`` looks: ``--baseline`` and ``--write-baseline``, and what is said of them after."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cli.cli.output import writable, write
from lora_cli.errors import UsageError
from lora_cli.settings import Settings
from lora_cli.validation import Checked
from lora_cli.validation.report import Naming

if TYPE_CHECKING:
    from lora_cli.documents.baseline import Baseline
    from lora_cli.rules.rule import Rule


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
    writable(new)
    if baseline is None:
        return Known(None, new)
    from lora_cli.documents.baseline import load_baseline
    from lora_cli.reading.manifest import read_text

    return Known(load_baseline(read_text(baseline, "baseline"), str(baseline)))


def accepting(judged: Iterable[Checked], known: Known, naming: Naming) -> Iterator[Checked]:
    """Each adapter with what is known of it accepted; ``naming`` says what it is called."""
    if not known.where:
        yield from judged
        return
    from lora_cli.validation import acceptance

    for one in judged:
        if known.baseline is not None:
            yield acceptance.known(one, naming.identity(one), known.baseline)
        else:
            yield acceptance.all_known(one, known.where)


def settled(
    checked: Sequence[Checked], known: Known, naming: Naming, rules: "Sequence[Rule]", settings: Settings
) -> list[str]:
    """What baseline and policies say that is no longer so, a sentence each; a new baseline is written.

    Raises:
        MachineError: it cannot be.
    """
    if not settings.suppressions and not known.where:
        return []
    from lora_cli.validation import acceptance

    named = [(naming.identity(one), one) for one in checked]
    notices = list(acceptance.idle(named, settings.suppressions, rules, acceptance.today()))
    if known.baseline is not None:
        notices += acceptance.stale(named, known.baseline, [rule.code for rule in rules])
    if known.new is not None:
        from lora_cli.documents.baseline import render_baseline

        found = ((name, finding, finding.accepted) for name, one in named for finding in one.findings)
        entries = [(name, finding) for name, finding, accepted in found if accepted and accepted.by == "baseline"]
        write(render_baseline(acceptance.entry_of(*one) for one in entries), known.new)
    return notices
