"""The reports of ``warm`` and ``warm --endpoint``, of which JSON is the fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_cli.endpoint.client import Refusal
from lora_cli.endpoint.reconcile import AdapterOutcome, Replica
from lora_cli.errors import EndpointError
from lora_cli.json_schema import Version
from lora_cli.results import Answers, LoadReport
from lora_cli.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmReport:
    """What was loaded and proved. A field may be added under the same number."""

    schema: Literal["lora_cli/warm/1"] = "lora_cli/warm/1"
    version: Version = __version__
    adapters: Sequence[LoadReport]
    answers: Sequence[Answers]
    """Empty without --prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsReport:
    """What was done on running servers. A field may be added under the same number."""

    schema: Literal["lora_cli/endpoints/1"] = "lora_cli/endpoints/1"
    version: Version = __version__
    servers: Sequence[Replica]
    refused: Sequence[AdapterOutcome]
    """Adapters that no server was asked to load."""

    @property
    def done(self) -> Sequence[AdapterOutcome]:
        """The results of each adapter on each server, and the refused adapters."""
        return [*(one for server in self.servers for one in server.adapters), *self.refused]

    @property
    def reached(self) -> bool:
        """Whether each server responded for at least one adapter: a single one may hang."""

        def silent(one: AdapterOutcome) -> bool:
            return isinstance(one.error, EndpointError) and not isinstance(one.error, Refusal)

        return all(one.error is None and not (one.adapters and all(map(silent, one.adapters))) for one in self.servers)

    @property
    def exit_code(self) -> int:
        """The highest exit code of all errors."""
        errors = [*(server.error for server in self.servers), *(one.error for one in self.done)]
        return max((error.exit_code for error in errors if error is not None), default=0)
