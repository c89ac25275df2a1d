"""The range scheduler: so many ranges in flight at once, across the files of all adapters.

One connection carries little where an answer takes its time, or where the network gives each one its share; many carry
much. To a server nearby few are enough, and more threads are in each other's way.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_cli.errors import Unreachable
from lora_cli.settings import Settings

if TYPE_CHECKING:
    from lora_cli.fetching.transfer import Transfer

FAR_S = 0.01
"""An answer that never comes sooner comes from far away."""

SLOW_BYTES_PER_S = 100e6
"""A connection that never carries more leaves room for others beside it."""

SMALL = 2 << 20
"""What is smaller says nothing of how much a connection carries: a busy machine may make it slow."""

ENOUGH = 4
"""So many reads it takes to know; a machine that is busy makes one of them wrong, and rarely the best of them."""

LARGEST_RANGE = 32 << 20
SMALLEST_RANGE = 1 << 20
FIRST_RANGE = 4 << 20
"""So large a range of a large file is unless its origin is known to be nearby."""

USUAL_RANGE = 8 << 20
PARTS = 32
"""A server nearby is asked for so many parts of a large file: each request costs it something."""

WINDOW = 80 << 20
"""Bytes that may be in flight or wait in memory for those before them, of all files together."""

STOP_S = 1.0
WAKE_S = 60.0
FIRST = 4
"""So many threads there are at once, as long as nobody knows that the origin is far away."""


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


Work = tuple["Transfer", int, int | None]


class Distance:
    """What the reads of one run say about how far away their origin is: its soonest answer, its fastest connection."""

    def __init__(self) -> None:
        self._answers, self._soonest_s = 0, math.inf
        self._ranges, self._fastest = 0, 0.0

    def saw(self, count: int, seconds: float) -> None:
        """A read brought ``count`` bytes in so many ``seconds``; with 0 bytes that is when its answer began."""
        if count == 0:
            self._answers, self._soonest_s = self._answers + 1, min(self._soonest_s, seconds)
        elif count >= SMALL:
            self._ranges, self._fastest = self._ranges + 1, max(self._fastest, count / max(seconds, 1e-9))

    @property
    def far(self) -> bool | None:
        """Whether it is far away; None as long as nobody knows."""
        if max(self._answers, self._ranges) < ENOUGH:
            return None
        late = self._answers >= ENOUGH and self._soonest_s > FAR_S
        return late or (self._ranges >= ENOUGH and self._fastest < SLOW_BYTES_PER_S)


class WorkerThreads:
    """At most ``most`` threads that run ``work``. They are daemons: an interrupt must not wait for a silent network."""

    def __init__(self, work: Callable[[], None], name: str, most: int) -> None:
        self._work, self._name, self._most = work, name, most
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def at_least(self, count: int) -> None:
        """Starts threads until there are so many."""
        with self._lock:
            while len(self._threads) < min(count, self._most):
                thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def join(self, longest_s: float) -> None:
        """Waits for each, for so long. One that hangs in a connection ends with the process."""
        for thread in self._threads:
            thread.join(longest_s)


class RangeScheduler:
    """Threads that read ranges, ``jobs`` at once at most. Each takes the next range of the file with the fewest.

    What is small is read by the thread that wants it, with up to ``FIRST`` threads beside it unless its origin is known
    to be nearby, or half of what may be in flight is. What is large has ``FIRST`` of them, and as many as there may be
    when its origin is far away.
    """

    def __init__(self, jobs: int) -> None:
        self.distance = Distance()
        self._jobs = jobs
        self._in_flight = 0
        self._stopped = False
        # Who waits for a file is woken when something of it is done; a thread, when there is something for it to read.
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._waiting: dict[Transfer, threading.Condition] = {}
        self._threads = WorkerThreads(self._work, "range", jobs)

    def close(self) -> None:
        """Stops the threads; what they are reading is given up."""
        with self._lock:
            self._stopped = True
            for condition in {self._more, *self._waiting.values()}:
                condition.notify_all()
        self._threads.join(STOP_S)

    def run(self, transfers: "Sequence[Transfer]", deadline: Deadline) -> None:
        """Reads these files to their end. When one fails, or the deadline passes, the others stop where they are.

        After a deadline a thread that hangs in a connection is not waited for: its transfer stays ``in_flight``.

        Raises:
            LoraCliError: the first that went wrong.
            KeyboardInterrupt: the scheduler was closed meanwhile.
        """
        done = threading.Condition(self._lock)
        ranges = self._ranges_left(transfers)
        # Who reads a range itself cannot look at the clock.
        small = deadline.at_s is None and ranges <= len(transfers)
        crowded = self.distance.far is False or self._in_flight >= self._jobs // 2
        alone = small and crowded and all(transfer.partial is None for transfer in transfers)
        with self._lock:
            self._waiting |= dict.fromkeys(transfers, done)
            if not alone:
                self._wake(ranges - small)
        if not alone:
            self._threads.at_least(min(FIRST, len(transfers) - 1) if small else FIRST)
            self._start()
        try:
            while (work := self._own(transfers, done, deadline, small=small)) is not None:
                self._read(work)
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
        if not all(transfer.finished for transfer in transfers):
            raise KeyboardInterrupt

    def _wake(self, count: int = 1) -> None:
        """Wakes so many threads if there is work."""
        if any(transfer.has_more for transfer in self._waiting):
            self._more.notify(count)

    def _own(
        self, transfers: "Sequence[Transfer]", done: threading.Condition, deadline: Deadline, *, small: bool
    ) -> Work | None:
        """What the thread that wants these files reads itself, if they are ``small``; None when all are read."""
        with self._lock:
            while not self._stopped:
                self._stop_all(transfers, next((t.error for t in transfers if t.error is not None), None))
                if all(transfer.finished for transfer in transfers):
                    return None
                if small and (work := self._take(transfers)) is not None:
                    return work
                self._threads.at_least(1)
                done.wait(deadline.left_s(WAKE_S))
                if deadline.passed:
                    self._stop_all(transfers, deadline.error())
                    done.wait_for(lambda: all(transfer.finished for transfer in transfers), STOP_S)
                    return None
            return None

    def _step(self, transfer: "Transfer") -> int:
        """How large its next range is: small where many are to be in flight, large where one more costs most."""
        size = transfer.file.size or 0
        if self.distance.far is False:
            step = max(USUAL_RANGE, size // PARTS)
        elif size > USUAL_RANGE or self.distance.far:
            step = FIRST_RANGE
        else:
            step = USUAL_RANGE
        return max(SMALLEST_RANGE, min(LARGEST_RANGE, step))

    def _start(self) -> None:
        """More threads, when they would have something to do and it is far away."""
        if self.distance.far:
            with self._lock:
                busy = self._in_flight + self._ranges_left(self._waiting)
            self._threads.at_least(busy)

    @staticmethod
    def _stop_all(transfers: "Sequence[Transfer]", error: BaseException | None) -> None:
        for transfer in transfers:
            transfer.error = transfer.error or error

    def _ranges_left(self, transfers: "Iterable[Transfer]") -> int:
        return sum(transfer.ranges_left(self._step(transfer)) for transfer in transfers)

    def _work(self) -> None:
        while (work := self._next()) is not None:
            self._read(work)

    def _read(self, work: Work) -> None:
        transfer, start, stop = work
        began_s, first_s, received = time.monotonic(), 0.0, 0

        def came(count: int) -> None:
            nonlocal first_s, received
            if first_s:
                received += count
                return
            first_s = time.monotonic()
            self.distance.saw(0, first_s - began_s)
            self._start()

        try:
            transfer.run(start, stop, lambda: self._stopped, came)
            if received:
                self.distance.saw(received, time.monotonic() - first_s)
        except BaseException as error:
            transfer.error = transfer.error or error
            if not isinstance(error, Exception):
                raise
        finally:
            with self._lock:
                transfer.in_flight -= 1
                self._in_flight -= 1
                self._wake()
                if (done := self._waiting.get(transfer)) is not None:
                    done.notify_all()

    def _next(self) -> Work | None:
        """The next range to read; waits for one. None when the scheduler is closed."""
        with self._lock:
            while not self._stopped:
                if (work := self._take(self._waiting)) is not None:
                    # There may be room for more of a large file.
                    if work[0].ahead and work[2] is not None and work[2] < (work[0].file.size or 0):
                        self._wake()
                    return work
                self._more.wait()
            return None

    def _take(self, transfers: "Iterable[Transfer]") -> Work | None:
        """A range of one of these files, if one more may be in flight."""
        if self._in_flight >= self._jobs:
            return None
        ahead = sum(transfer.ahead for transfer in self._waiting)
        for transfer in sorted(transfers, key=lambda transfer: transfer.in_flight):
            step = self._step(transfer)
            # Only a range that is next in its file makes room.
            if transfer.in_flight and ahead + step > WINDOW:
                break
            if (taken := transfer.take(step)) is not None:
                transfer.in_flight += 1
                self._in_flight += 1
                return transfer, *taken
        return None
