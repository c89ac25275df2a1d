"""How many threads it takes: few against a server nearby, where more are in each other's way, many over a network.

One connection carries little where an answer takes its time, or where the network gives each one its share; many carry
much. Next door one or two keep a processor busy.
"""

import math
import threading
import time
from collections.abc import Callable

FAR_S = 0.01
"""An answer that never comes sooner comes from far away."""

SLOW_BYTES_PER_S = 100e6
"""A connection that never carries more leaves room for others beside it."""

SMALL = 256 * 1024
WORTHWHILE = 2
"""So many times as long as its answer took to begin, a range should take to come."""

ENOUGH = 3
"""So many looks it takes; a machine that is busy makes one of them wrong, and rarely the best of them."""


class Distance:
    """What the reads of one run say about how far away their origin is. The best of each kind counts.

    ``far`` is None until that is known. One answer that comes soon, or brings much at once, shows that the slow ones
    were a busy machine's. Connections that were slow stay so, for a network may let one have more for a while.
    """

    def __init__(self) -> None:
        self.far: bool | None = None
        self._answers, self._soonest_s = 0, math.inf
        self._pieces, self._fastest, self._slow, self._quick = 0, 0.0, False, False
        self._listeners: list[Callable[[bool], None]] = []
        self._lock = threading.Lock()

    def tell(self, listener: Callable[[bool], None]) -> None:
        """Calls it with ``far`` when that is known, and again when it changes."""
        with self._lock:
            self._listeners.append(listener)
            known = self.far
        if known is not None:
            listener(known)

    def saw(self, count: int, seconds: float, answer_s: float = 0.0) -> None:
        """One read brought ``count`` bytes in so many ``seconds``, which began ``answer_s`` after it was asked for."""
        with self._lock:
            if count < SMALL:
                self._answers, self._soonest_s = self._answers + 1, min(self._soonest_s, seconds)
            else:
                self._pieces, self._fastest = self._pieces + 1, max(self._fastest, count / max(seconds, 1e-9))
                self._quick = self._quick or count / max(answer_s + seconds, 1e-9) >= SLOW_BYTES_PER_S
            late = self._answers >= ENOUGH and self._soonest_s > FAR_S and not self._quick
            self._slow = self._slow or (self._pieces >= ENOUGH and self._fastest < SLOW_BYTES_PER_S)
            far, known = late or self._slow, max(self._answers, self._pieces) >= ENOUGH
            if not known or self.far == far:
                return
            self.far = far
            listeners = list(self._listeners)
        for listener in listeners:
            listener(far)

    @property
    def worthwhile(self) -> int:
        """Bytes of a range during which a connection spends little of its time on waiting for the answer."""
        return int(WORTHWHILE * self._soonest_s * self._fastest) if self._answers and self._pieces else 0


class Look:
    """One read as it is watched: how long its answer took to begin, and how fast the rest of it came."""

    def __init__(self, distance: Distance) -> None:
        self._distance, self._began_s = distance, time.monotonic()
        self._since_s, self._count = 0.0, -1

    def came(self, count: int) -> None:
        """So many bytes more."""
        if self._count >= 0:
            self._count += count
            return
        self._since_s, self._count = time.monotonic(), 0
        self._distance.saw(0, self._since_s - self._began_s)

    def end(self) -> None:
        """Nothing more comes."""
        if self._count >= SMALL:
            self._distance.saw(self._count, time.monotonic() - self._since_s, self._since_s - self._began_s)


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
