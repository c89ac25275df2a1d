"""Lanes: so many ranges in flight at once, across the files of all adapters."""

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from lora_cli.fetching.crew import Crew, Distance, Look

if TYPE_CHECKING:
    from lora_cli.fetching.deadline import Deadline
    from lora_cli.fetching.transfer import Transfer

LARGEST_RANGE = 32 << 20
SMALLEST_RANGE = 1 << 20
FIRST_RANGE = 4 << 20
"""So large a range of a large file is as long as nobody knows how far away its origin is."""

USUAL_RANGE = 8 << 20
PARTS = 32
"""A server nearby is asked for so many parts of a large file: each question costs it something."""

WINDOW = 80 << 20
"""Bytes that may be in flight or wait in memory for those before them, of all files together."""

STOP_S = 1.0
WAKE_S = 60.0
FIRST = 4
"""So many lanes there are at once, as long as nobody knows that the origin is far away."""

Work = tuple["Transfer", int, int | None]


class Lanes:
    """Threads that read ranges, ``jobs`` at once at most. Each takes the next range of the file with the fewest.

    What is small is read by the thread that wants it, with up to ``FIRST`` lanes beside it unless its origin is known
    to be nearby, or half of what may be in flight is. What is large has ``FIRST`` of them, and as many as there may be
    when its origin is far away.
    """

    def __init__(self, jobs: int) -> None:
        self.distance = Distance()
        self._jobs = jobs
        self._in_flight = self._queued = 0
        self._stopped = False
        # Who waits for a file is woken when something of it is done; a lane, when there is something to do for one.
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._waiting: dict[Transfer, threading.Condition] = {}
        self._crew = Crew(self._work, "lane", jobs)
        self.distance.tell(lambda _: self._start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads; what they are reading is given up."""
        with self._lock:
            self._stopped = True
            for condition in {self._more, *self._waiting.values()}:
                condition.notify_all()
        self._crew.join(STOP_S)

    def run(self, transfers: "Sequence[Transfer]", deadline: "Deadline | None" = None) -> None:
        """Reads these files to their end. When one fails, or the deadline passes, the others stop where they are.

        After a deadline a thread that hangs in a connection is not waited for: its transfer stays ``in_flight``.

        Raises:
            LoraCliError: the first that went wrong.
            KeyboardInterrupt: the lanes were closed meanwhile.
        """
        # Who reads a range itself cannot look at the clock.
        itself = deadline is None or deadline.at_s is None
        crowded = self.distance.far is False or self._in_flight + self._queued >= self._jobs // 2
        if itself and crowded and all(transfer.partial is None for transfer in transfers):
            self._alone(transfers)
            return
        ranges = self._ranges_left(transfers)
        done = threading.Condition(self._lock)
        small = itself and ranges <= len(transfers)
        with self._lock:
            self._waiting |= dict.fromkeys(transfers, done)
            self._wake(ranges - small)
        self._crew.at_least(min(FIRST, len(transfers) - 1) if small else FIRST)
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

    def _alone(self, transfers: "Sequence[Transfer]") -> None:
        """Reads small files where a thread beside this one costs more than it brings."""
        for transfer in transfers:
            while (work := self._turn(transfer)) is not None:
                try:
                    self._read(work)
                except BaseException as interrupt:
                    self._stop_all(transfers, interrupt)
                    raise
            if transfer.error is not None:
                self._stop_all(transfers, transfer.error)
                raise transfer.error
            if not transfer.finished:
                raise KeyboardInterrupt

    def _turn(self, transfer: "Transfer") -> Work | None:
        """Its next range, as soon as one more may be in flight; None when there is none, or the lanes are closed."""
        with self._lock:
            self._queued += 1
            self._more.wait_for(lambda: self._stopped or self._in_flight < self._jobs)
            self._queued -= 1
            taken = None if self._stopped else transfer.take(self._step(transfer))
            if taken is None:
                return None
            transfer.in_flight += 1
            self._in_flight += 1
            return transfer, *taken

    def _wake(self, count: int = 1) -> None:
        """Wakes so many lanes if there is work; everybody where others wait beside them, who might be woken instead."""
        if self._queued:
            self._more.notify_all()
        elif any(transfer.has_more for transfer in self._waiting):
            self._more.notify(count)

    def _own(
        self, transfers: "Sequence[Transfer]", done: threading.Condition, deadline: "Deadline | None", *, small: bool
    ) -> Work | None:
        """What the thread that wants these files reads itself, if they are ``small``; None when all are read."""
        with self._lock:
            while not self._stopped:
                self._stop_all(transfers, next((t.error for t in transfers if t.error is not None), None))
                if all(transfer.finished for transfer in transfers):
                    return None
                if small and (work := self._take(transfers)) is not None:
                    return work
                self._crew.at_least(1)
                done.wait(None if deadline is None else deadline.left_s(WAKE_S))
                if deadline is not None and deadline.passed:
                    self._stop_all(transfers, deadline.error())
                    done.wait_for(lambda: all(transfer.finished for transfer in transfers), STOP_S)
                    return None
            return None

    def _step(self, transfer: "Transfer") -> int:
        """How large its next range is: small where many are to be in flight, large where one more costs most."""
        size = transfer.file.size or 0
        if self.distance.far is None:
            step = FIRST_RANGE if size > USUAL_RANGE else USUAL_RANGE
        elif self.distance.far:
            step = min(USUAL_RANGE, max(WINDOW // self._jobs, self.distance.worthwhile))
        else:
            step = max(USUAL_RANGE, size // PARTS)
        return max(SMALLEST_RANGE, min(LARGEST_RANGE, step))

    def _start(self) -> None:
        """More lanes, when they would have something to do and it is far away."""
        if self.distance.far:
            with self._lock:
                busy = self._in_flight + self._ranges_left(self._waiting)
            self._crew.at_least(busy)

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
        look = Look(self.distance)
        try:
            transfer.run(start, stop, lambda: self._stopped, look.came)
            look.end()
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
        """The next range to read; waits for one. None when the lanes are closed."""
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
