"""The report of ``inspect``: what each adapter is. JSON has its fields; a terminal and a page are made from it."""

from dataclasses import dataclass, field
from typing import Literal

from lora_cli.adapter.comparison import Comparison
from lora_cli.base.base_model import BaseModel
from lora_cli.json_schema import INLINE, Version
from lora_cli.judging.engine_args import EngineArgs
from lora_cli.judging.inspection import Inspection
from lora_cli.judging.result import Result
from lora_cli.version import __version__


@dataclass(frozen=True, slots=True)
class Inspected:
    """One adapter. Its exit_code is 1 where config or weights cannot be read; a finding is not a failure here."""

    result: Result = field(metadata=INLINE)
    inspection: Inspection | None
    """What the adapter is, or null if it could not be read."""
    diff: Comparison | None
    """The result of --diff; null if it was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectReport:
    """What adapters are. A field may be added under the same number; a change of meaning makes a new number."""

    schema: Literal["lora_cli/inspect/1"] = "lora_cli/inspect/1"
    version: Version = __version__
    base: BaseModel | None
    """The base model that the adapters were compared with, or null."""
    adapters: tuple[Inspected, ...]
    engine_args: EngineArgs | None
    """The smallest flags with which an engine serves the adapters, or null if they were not asked for."""
