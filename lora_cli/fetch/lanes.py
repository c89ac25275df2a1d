"""Lanes: so many ranges in flight at once, across the files of all adapters."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from lora_cli.fetch.deadline import Deadline
    from lora_cli.fetch.transfer import Transfer

LARGEST_RANGE = 8 << 20
SMALLEST_RANGE = 1 << 20
IN_FLIGHT_BYTES = 128 << 20
WAITING_BYTES = 64 << 20
"""Bytes that may wait in memory for those before them, beside the ranges in flight."""

STOP_S = 1.0
WAKE_S = 60.0


class Lanes:
    """Threads that read ranges. Each takes the next range of the file that has the fewest in flight."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._step = max(SMALLEST_RANGE, min(LARGEST_RANGE, IN_FLIGHT_BYTES // jobs))
        self._transfers: list[Transfer] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            # One that hangs in a connection ends with the process.
            thread.join(STOP_S)

    def run(self, transfers: "Sequence[Transfer]", deadline: "Deadline | None" = None) -> None:
        """Reads these files to their end. When one fails, or the deadline passes, the others stop where they are.

        After a deadline a thread that hangs in a connection is not waited for: its transfer stays ``in_flight``.

        Raises:
            LoraCliError: the first that went wrong.
            KeyboardInterrupt: the lanes were closed meanwhile.
        """
        with self._changed:
            self._transfers += transfers
            self._start_threads()
            self._changed.notify_all()
            try:
                while not all(transfer.finished for transfer in transfers) and not self._stopped:
                    self._changed.wait(None if deadline is None else deadline.left_s(WAKE_S))
                    if deadline is not None and deadline.passed:
                        self._stop_all(transfers, deadline.error())
                        self._changed.wait_for(lambda: all(transfer.finished for transfer in transfers), STOP_S)
                        break
                    self._stop_all(transfers, next((t.error for t in transfers if t.error is not None), None))
            except BaseException as interrupt:
                self._stop_all(transfers, interrupt)
                raise
            finally:
                self._transfers = [transfer for transfer in self._transfers if transfer not in transfers]
        error = next((t.error for t in transfers if t.error is not None), None)
        if error is not None:
            raise error
        if not all(transfer.finished for transfer in transfers):
            raise KeyboardInterrupt

    @staticmethod
    def _stop_all(transfers: "Sequence[Transfer]", error: BaseException | None) -> None:
        for transfer in transfers:
            transfer.error = transfer.error or error

    def _start_threads(self) -> None:
        while len(self._threads) < self._jobs and len(self._threads) < self._ranges_left():
            thread = threading.Thread(target=self._work, name=f"lane-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _ranges_left(self) -> int:
        sizes = [transfer.file.size or 1 for transfer in self._transfers]
        return sum(-(-size // self._step) for size in sizes)

    def _work(self) -> None:
        while (work := self._next()) is not None:
            transfer, start, stop = work
            try:
                transfer.run(start, stop, lambda: self._stopped)
            except BaseException as error:  # noqa: BLE001 - it is raised again where the file is waited for
                transfer.error = transfer.error or error
            with self._changed:
                transfer.in_flight -= 1
                self._changed.notify_all()

    def _next(self) -> "tuple[Transfer, int, int | None] | None":
        """The next range to read; waits for one. None when the lanes are closed."""
        with self._changed:
            while not self._stopped:
                full = sum(transfer.waiting_bytes for transfer in self._transfers) >= WAITING_BYTES
                for transfer in sorted(self._transfers, key=lambda transfer: transfer.in_flight):
                    # Only a range that is next in its file can make room.
                    if full and transfer.in_flight:
                        break
                    if (taken := transfer.take(self._step)) is not None:
                        transfer.in_flight += 1
                        return transfer, *taken
                self._changed.wait()
            return None
