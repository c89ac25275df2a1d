"""The time that an adapter may take."""

import time
from dataclasses import dataclass

from lora_cli.errors import Unreachable
from lora_cli.settings import Settings


@dataclass(frozen=True, slots=True)
class Deadline:
    """``adapter_timeout``: when the adapter ``name`` must be complete, by the monotonic clock."""

    name: str
    timeout_s: float
    at_s: float

    @classmethod
    def of(cls, name: str, settings: Settings) -> "Deadline":
        """The deadline of an adapter that starts now."""
        timeout_s = settings.adapter_timeout_s
        return cls(name, timeout_s, time.monotonic() + timeout_s)

    def left_s(self, most_s: float) -> float:
        """Seconds until the deadline, at most ``most_s``."""
        return max(0.0, min(most_s, self.at_s - time.monotonic()))

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.at_s

    def error(self) -> Unreachable:
        """The error for a passed deadline."""
        return Unreachable(
            f"{self.name} is not complete after {self.timeout_s:g} s",
            hint="what was downloaded is kept: run it again, or raise adapter_timeout (LORA_CLI_ADAPTER_TIMEOUT)",
        )
