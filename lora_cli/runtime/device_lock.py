"""The priority queue before the device: requests go before background work, such as a proof."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceLock:
    """One holder at a time. No background step begins while a request waits, so it waits for one step at most."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._requests = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the device for a request."""
        with self._changed:
            self._requests += 1
            try:
                while self._busy:
                    self._changed.wait()
                self._busy = True
            finally:
                self._requests -= 1
        yield from self._turn()

    @contextmanager
    def background(self) -> Iterator[None]:
        """Hold the device for one short step of background work."""
        with self._changed:
            while self._busy or self._requests:
                self._changed.wait()
            self._busy = True
        yield from self._turn()

    def _turn(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
