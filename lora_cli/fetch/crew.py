"""How many threads it takes: few against a server nearby, where more are in each other's way, many over a network.

One connection carries little where an answer takes its time, or where the network gives each one its share; many carry
much. Next door one or two keep a processor busy.
"""

import math
import threading
from collections.abc import Callable

FAR_S = 0.01
"""An answer that never comes sooner comes from far away."""

SLOW_BYTES_PER_S = 100e6
"""A connection that never carries more leaves room for others beside it."""

SMALL = 256 * 1024
ENOUGH = 3
"""So many looks it takes; a machine that is busy makes one of them wrong, and rarely the best of them."""


class Distance:
    """What the reads of one run say about how far away their origin is. The best of each kind counts.

    ``far`` is None until that is known; once it is far it stays so.
    """

    def __init__(self) -> None:
        self.far: bool | None = None
        self._answers, self._soonest_s = 0, math.inf
        self._pieces, self._fastest = 0, 0.0
        self._listeners: list[Callable[[bool], None]] = []
        self._lock = threading.Lock()

    def tell(self, listener: Callable[[bool], None]) -> None:
        """Calls it with ``far`` when that is known, and again when it changes."""
        with self._lock:
            self._listeners.append(listener)
            known = self.far
        if known is not None:
            listener(known)

    def saw(self, count: int, seconds: float) -> None:
        """One read brought ``count`` bytes in so many ``seconds``."""
        with self._lock:
            if count < SMALL:
                self._answers, self._soonest_s = self._answers + 1, min(self._soonest_s, seconds)
            else:
                self._pieces, self._fastest = self._pieces + 1, max(self._fastest, count / max(seconds, 1e-9))
            late = self._answers >= ENOUGH and self._soonest_s > FAR_S
            slow = self._pieces >= ENOUGH and self._fastest < SLOW_BYTES_PER_S
            known = max(self._answers, self._pieces) >= ENOUGH
            if self.far or not known or self.far == (late or slow):
                return
            self.far = late or slow
            listeners = list(self._listeners)
        for listener in listeners:
            listener(late or slow)


class Crew:
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
