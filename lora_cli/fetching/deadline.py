"""When an adapter must be complete."""

import time
from dataclasses import dataclass

from lora_cli.errors import Unreachable
from lora_cli.settings import Settings


@dataclass(frozen=True, slots=True)
class Deadline:
    """``--adapter-timeout``: when the adapter ``name`` must be complete, by the monotonic clock (None: whenever)."""

    name: str
    timeout_s: float | None
    at_s: float | None

    @classmethod
    def of(cls, name: str, settings: Settings) -> "Deadline":
        """That of an adapter which is begun now."""
        timeout_s = settings.adapter_timeout_s
        return cls(name, timeout_s, None if timeout_s is None else time.monotonic() + timeout_s)

    def left_s(self, most_s: float) -> float:
        """Seconds that something may still take, of at most ``most_s``."""
        return most_s if self.at_s is None else max(0.0, min(most_s, self.at_s - time.monotonic()))

    @property
    def passed(self) -> bool:
        """Whether it is too late."""
        return self.at_s is not None and time.monotonic() >= self.at_s

    def error(self) -> Unreachable:
        """What is said then."""
        return Unreachable(
            f"{self.name} is not complete after {self.timeout_s:g} s",
            hint="what came is kept: run it again to go on, or raise --adapter-timeout",
        )
