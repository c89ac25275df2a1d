"""The request rates of adapters, which age.

A rate takes a few dozen bytes, so it is kept when its adapter is evicted.
"""

import heapq
from math import inf, log2

HALF_LIFE = 5_000
"""After so many requests a request counts half."""

MOST = 16_384
LARGEST_GAP = 64.0
"""A request adds nothing that a float can hold to a rate 2**64 times as large, and the other way round."""


class History:
    """Holds the request rates of up to ``most`` adapters, whether they are in a tier or not.

    Its clock counts requests. Beyond ``most`` and an eighth more, those with the lowest rates are removed.
    """

    def __init__(self, most: int = MOST) -> None:
        self.clock = 0
        self._most = most
        self._rates: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._rates)

    def record_request(self, key: str) -> None:
        """Record one request for ``key``."""
        self.clock += 1
        now = self.clock / HALF_LIFE
        if key not in self._rates and len(self._rates) >= self._most + self._most // 8:
            for one in heapq.nsmallest(len(self._rates) - self._most, self._rates, key=self.rate):
                del self._rates[one]
        gap = now - self.rate(key)
        self._rates[key] = now if gap > LARGEST_GAP else self._rates[key] + log2(1 + 2.0**gap)

    def rate(self, key: str) -> float:
        """The rate of ``key``, to be compared with other keys' only.

        It is ``log2(sum(2**(t / HALF_LIFE)))`` over the moments t of its requests: the logarithm of discounted
        requests, times a growth that is the same for all. So only a request changes it, and it rises.
        """
        return self._rates.get(key, -inf)
