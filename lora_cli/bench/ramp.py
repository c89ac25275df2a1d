"""``--ramp-up-strategy``: a rate that rises from one request to the next, as in ``vllm bench serve``."""

from dataclasses import dataclass

from lora_cli.bench.elementary import exp, log
from lora_cli.errors import UsageError

STRATEGIES = ("linear", "exponential")


@dataclass(frozen=True, slots=True)
class Ramp:
    """From ``start`` requests a second at the first one to ``end`` at the last."""

    strategy: str
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.strategy} {self.start:g}-{self.end:g}"

    def rate(self, number: int, requests: int) -> float:
        """Requests a second when request ``number`` of so many is next."""
        progress = number / max(requests - 1, 1)
        if self.strategy == "linear":
            return self.start + (self.end - self.start) * progress
        return self.start * exp(log(self.end / self.start) * progress)


def ramp_of(strategy: str | None, start: int | None, end: int | None) -> Ramp | None:
    """The ramp that is asked for, or none.

    Raises:
        UsageError: a part of it is missing or wrong.
    """
    if strategy is None and start is None and end is None:
        return None
    if strategy not in STRATEGIES or start is None or end is None or start > end:
        raise UsageError(
            "a ramp is linear or exponential, and goes up from one rate to another",
            hint="--ramp-up-strategy linear --ramp-up-start-rps 1 --ramp-up-end-rps 20",
        )
    return Ramp(strategy, float(start), float(end))
