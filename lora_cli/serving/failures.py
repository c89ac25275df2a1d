"""What failed of late: remembered, so that a broken adapter is not fetched and loaded again by each of its requests."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from lora_cli.core.results import LoadReport

FIRST_S, LONGEST_S = 1.0, 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an adapter could not be loaded, how often in a row, and when (on ``clock``) it is tried again."""

    report: LoadReport
    count: int
    until: float


class Failures:
    """Holds the last failure of each adapter by name; a try later is let through after 1 s, then 2, 4, … 300 s."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, Failure] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many adapters failed the last time."""
        return len(self._failures)

    def add(self, name: str, report: LoadReport) -> None:
        """``name`` failed, once more."""
        with self._lock:
            count = self._failures[name].count + 1 if name in self._failures else 1
            wait_s = min(FIRST_S * 2.0 ** min(count - 1, 30), LONGEST_S)
            self._failures[name] = Failure(report, count, self._clock() + wait_s)

    def clear(self, name: str) -> None:
        """It loaded, or is another one now."""
        with self._lock:
            self._failures.pop(name, None)

    def last(self, name: str) -> Failure | None:
        """Why it failed the last time, if it did."""
        return self._failures.get(name)

    def wait_s(self, name: str) -> float:
        """Seconds until it may be tried again; 0 when it may be now."""
        failure = self._failures.get(name)
        return 0.0 if failure is None else max(0.0, failure.until - self._clock())
