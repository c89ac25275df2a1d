"""Whose turn it is on the device: requests before what is done in the background, such as a proof."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceLock:
    """One at a time. No background step begins while a request waits, so that one waits for a single step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._requests = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A turn for work that a request waits for."""
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
        """A turn for one step of background work: keep it short."""
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
