"""The report of ``inspect``: what each adapter is. JSON has its fields; a terminal and a page are made from it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from lora_cli import __version__
from lora_cli.adapter.comparison import Comparison
from lora_cli.base.base_model import BaseModel
from lora_cli.finding import Finding
from lora_cli.json_schema import INLINE, Version
from lora_cli.judging import Checked
from lora_cli.judging.engine_args import EngineArgs
from lora_cli.judging.inspection import Inspection
from lora_cli.judging.report import BaseModelSummary, CheckedAdapter, base_summary, facts


@dataclass(frozen=True, slots=True)
class InspectedAdapter:
    """One adapter. Its exit_code is 1 where config or weights cannot be read; a finding is not a failure here."""

    checked: CheckedAdapter[Finding] = field(metadata=INLINE)
    inspection: Inspection | None
    """What the adapter is, or null if it could not be read."""
    diff: Comparison | None
    """The result of --diff; null if it was not asked for."""
    signers: tuple[str, ...] = ()
    """Who signed and validated it; missing if no policy requires that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectReport:
    """What adapters are. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/inspect/1"] = "lora_cli/inspect/1"
    version: Version = __version__
    base: BaseModelSummary | None
    """The base model that the adapters were compared with, or null."""
    adapters: tuple[InspectedAdapter, ...]
    engine_args: EngineArgs | None
    """The smallest flags with which an engine serves the adapters, or null if they were not asked for."""


def inspect_report(
    inspected: Iterable[tuple[Checked, Inspection | None]],
    base: BaseModel | None = None,
    args: EngineArgs | None = None,
    diff: Callable[[Checked], Comparison | None] = lambda _: None,
) -> InspectReport:
    """The report of one run of ``inspect``: what each adapter is, or the error that kept it from being read."""
    return InspectReport(
        base=base_summary(base),
        adapters=tuple(
            InspectedAdapter(
                CheckedAdapter(**facts(one, one.read_code), findings=one.reported), found, diff(one), one.signers
            )
            for one, found in inspected
        ),
        engine_args=args,
    )
