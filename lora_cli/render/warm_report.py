"""The reports of ``warm --once`` and ``warm --endpoint``, of which JSON is the fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_cli import __version__
from lora_cli.core.results import Answers, LoadReport
from lora_cli.endpoint.reconcile import Done, Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmReport:
    """What was loaded and proved. A field may be added under the same number."""

    schema: Literal["lora_cli/warm/1"] = "lora_cli/warm/1"
    version: str = __version__
    """The version of lora-cli."""
    adapters: Sequence[LoadReport]
    answers: Sequence[Answers]
    """Empty without --prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsReport:
    """What was done on running servers. A field may be added under the same number."""

    schema: Literal["lora_cli/endpoints/1"] = "lora_cli/endpoints/1"
    version: str = __version__
    """The version of lora-cli."""
    servers: Sequence[Replica]
    refused: Sequence[Done]
    """Adapters that no server was asked to load."""
