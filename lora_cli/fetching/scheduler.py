"""The range scheduler: a fixed number of ranges in flight at once, across the files of all adapters.

Parallel connections hide the latency of each request, and get more of a network that limits each connection.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.errors import Unreachable
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.fetching.file_download import Transfer

RANGE = 4 << 20
"""Bytes of one range."""

WINDOW = 80 << 20
"""Bytes of all files that may be in flight, or in memory because earlier ones are missing."""

STOP_S = 1.0
WAKE_S = 60.0


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


Work = tuple["Transfer", int, int | None]


class RangeScheduler:
    """Threads that read ranges, at most ``jobs`` at once. Each takes the next range of the file with the fewest.

    They are daemon threads, since an interrupt must not wait for a silent network. Files start as many as they need.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._stopped = False
        # The waiting caller is notified when a range of its files is done; threads, when there may be a range to read.
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._waiting: dict[Transfer, threading.Condition] = {}
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        """Stops the threads and what they are reading; one that hangs ends with the process."""
        with self._lock:
            self._stopped = True
            self._stop_all(self._waiting, KeyboardInterrupt())
            for condition in {self._more, *self._waiting.values()}:
                condition.notify_all()
        until = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def run(self, transfers: "Sequence[Transfer]", deadline: Deadline) -> None:
        """Reads these files to their end. When one fails, or the deadline passes, the others stop, too.

        After the deadline a thread that hangs in a connection is not waited for: its transfer stays ``in_flight``.

        Raises:
            LoraCliError: the error of the first file that failed.
            KeyboardInterrupt: the scheduler was closed meanwhile.
        """
        done = threading.Condition(self._lock)
        with self._lock:
            self._waiting |= dict.fromkeys(transfers, done)
            wanted = min(self._jobs, sum(transfer.ranges(RANGE) for transfer in self._waiting))
            while len(self._threads) < wanted:
                thread = threading.Thread(target=self._work, name=f"range-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._more.notify(len(transfers))
        try:
            with self._lock:
                self._wait(transfers, done, deadline)
        except BaseException as interrupt:
            self._stop_all(transfers, interrupt)
            raise
        finally:
            with self._lock:
                for transfer in transfers:
                    del self._waiting[transfer]
        error = next((t.error for t in transfers if t.error is not None), None)
        if error is not None:
            raise error

    def _wait(self, transfers: "Sequence[Transfer]", done: threading.Condition, deadline: Deadline) -> None:
        """Waits until no range of these files is being read, or the scheduler is closed."""
        while not self._stopped:
            self._stop_all(transfers, next((t.error for t in transfers if t.error is not None), None))
            if all(transfer.finished for transfer in transfers):
                return
            done.wait(deadline.left_s(WAKE_S))
            if deadline.passed:
                self._stop_all(transfers, deadline.error())
                done.wait_for(lambda: all(transfer.finished for transfer in transfers), STOP_S)
                return

    @staticmethod
    def _stop_all(transfers: "Iterable[Transfer]", error: BaseException | None) -> None:
        for transfer in transfers:
            transfer.error = transfer.error or error

    def _work(self) -> None:
        while (work := self._next()) is not None:
            self._read(*work)

    def _read(self, transfer: "Transfer", start: int, stop: int | None) -> None:
        try:
            transfer.run(start, stop)
        except BaseException as error:
            transfer.error = transfer.error or error
            if not isinstance(error, Exception):
                raise
        finally:
            with self._lock:
                transfer.in_flight -= 1
                self._more.notify()
                if (done := self._waiting.get(transfer)) is not None:
                    # Before another thread takes a range of the other files.
                    self._stop_all([other for other in self._waiting if self._waiting[other] is done], transfer.error)
                    done.notify_all()

    def _next(self) -> Work | None:
        """The next range to read; waits for one. None when the scheduler is closed."""
        with self._lock:
            while not self._stopped:
                if (work := self._take()) is not None:
                    # There may be another range for another thread.
                    self._more.notify()
                    return work
                self._more.wait()
            return None

    def _take(self) -> Work | None:
        """A range of one of the files, if one more may be in flight."""
        ahead = sum(transfer.ahead for transfer in self._waiting)
        for transfer in sorted(self._waiting, key=lambda transfer: transfer.in_flight):
            # Beyond the window, only a range that is next in its file may start: its bytes need not wait in memory.
            if transfer.in_flight and ahead + RANGE > WINDOW:
                break
            if (taken := transfer.take(RANGE)) is not None:
                transfer.in_flight += 1
                return transfer, *taken
        return None
