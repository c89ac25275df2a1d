"""The history of every requested adapter: its request rates, size and load time.

An adapter's history takes a few dozen bytes, so it is kept when the adapter is evicted.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, log2
from typing import Any, Self

from lora_cli.core import parse
from lora_cli.errors import FormatError

HALF_LIVES = (300, 1_000, 5_000, 20_000)
"""After so many requests a request counts half: short-term rates find what is new, long-term ones distinguish equals.
"""

LONG_TERM = 5_000
"""The half-life for comparing adapters by one rate."""

SCHEMA = "lora_cli/history/1"
MOST = 16_384
LARGEST_GAP = 64.0
"""A request adds nothing that a float can hold to a rate 2**64 times as large, and the other way round."""

LONGEST_KEY = 4_096
LARGEST_WEIGHT = 1 << 60
LARGEST_COST_MS = 1e9
LOWEST_RATE, HIGHEST_RATE = -1e9, 16.0
"""Of rates relative to now: a key that was asked for at every request for ever has log2(20,000 / ln 2), 14.8."""

_COST_MS = parse.number_within(0, LARGEST_COST_MS)
_RATE = parse.number_within(LOWEST_RATE, HIGHEST_RATE)


@dataclass(slots=True)
class _AdapterStats:
    """One adapter: log2 of its discounted requests by half-life (see ``History.rate``), bytes, milliseconds."""

    rates: list[float] = field(default_factory=lambda: [-inf] * len(HALF_LIVES))
    weight: int = 0
    cost_ms: float | None = None


NO_STATS = _AdapterStats()


class History:
    """Holds request rates, bytes and load cost of up to ``most`` adapters, whether they are in a tier or not.

    Its clock counts requests. Beyond ``most`` and an eighth more, those with the lowest long-term
    rates are removed. An unknown key has no rate, no bytes and a cost of 1 ms.
    """

    def __init__(self, most: int = MOST) -> None:
        self.clock = 0
        self._most = most
        self._stats: dict[str, _AdapterStats] = {}

    def __len__(self) -> int:
        return len(self._stats)

    def record_request(self, key: str) -> None:
        """Record one request for ``key``."""
        self.clock += 1
        rates = (self._stats.get(key) or self._add(key)).rates
        for which, half_life in enumerate(HALF_LIVES):
            now = self.clock / half_life
            gap = now - rates[which]
            rates[which] = now if gap > LARGEST_GAP else rates[which] + log2(1 + 2.0**gap)

    def record_load(self, key: str, weight: int, cost_ms: float) -> None:
        """``key`` has ``weight`` bytes, and its load took ``cost_ms``; the cost kept is half this one, half before."""
        stats = self._stats.get(key) or self._add(key)
        stats.weight = weight
        stats.cost_ms = cost_ms if stats.cost_ms is None else (stats.cost_ms + cost_ms) / 2

    def rate(self, half_life: int) -> Callable[[str], float]:
        """A function from a key to its rate by one of ``HALF_LIVES``, to be compared with other keys' only.

        It is ``log2(sum(2**(t / half_life)))`` over the moments t of its requests: the logarithm of discounted
        requests, times a growth that is the same for all. So only a request changes it, and it rises.
        """
        which = HALF_LIVES.index(half_life)
        stats = self._stats

        def rate(key: str) -> float:
            return stats.get(key, NO_STATS).rates[which]

        return rate

    def weight(self, key: str) -> int:
        """Bytes, as of the last load."""
        return self._stats.get(key, NO_STATS).weight

    def cost_ms(self, key: str) -> float:
        """Milliseconds that a load takes."""
        cost_ms = self._stats.get(key, NO_STATS).cost_ms
        return 1.0 if cost_ms is None else cost_ms

    def hottest(self, count: int) -> tuple[str, ...]:
        """The ``count`` adapters with the highest rates, the highest first; equals by name."""
        rate = self.rate(LONG_TERM)
        return tuple(heapq.nsmallest(count, self._stats, key=lambda key: (-rate(key), key)))

    def state(self) -> dict[str, Any]:
        """All that is known, as a JSON value: ``adapters`` are lists of key, bytes, cost (or null) and rates.

        The rates are relative to now (0: one request, this moment; null: none), so that the clock need not be kept.
        """
        now = [self.clock / half_life for half_life in HALF_LIVES]
        rows = [
            [key, stats.weight, stats.cost_ms, [_relative_rate(*pair) for pair in zip(stats.rates, now, strict=True)]]
            for key, stats in self._stats.items()
        ]
        return {"schema": SCHEMA, "half_lives": list(HALF_LIVES), "adapters": rows}

    @classmethod
    def restored(cls, value: Any, where: str, most: int = MOST) -> Self:
        """A history from its ``state``, read from the untrusted file ``where``.

        Raises:
            FormatError: it is no such value, or has more adapters than a history keeps.
        """
        fields = parse.mapping(value, where)
        parse.one_of([SCHEMA])(fields.get("schema"), f"{where}: schema")
        if fields.get("half_lives") != list(HALF_LIVES):
            raise FormatError(f"must be {list(HALF_LIVES)}", where=f"{where}: half_lives")
        rows = parse.sequence(fields.get("adapters"), f"{where}: adapters")
        history = cls(most)
        if len(rows) > history._limit:
            raise FormatError(f"has {len(rows)} adapters, more than {history._limit}", where=f"{where}: adapters")
        for number, row in enumerate(rows):
            key, stats = _parse_row(row, f"{where}: adapters[{number}]")
            history._stats[key] = stats
        return history

    @property
    def _limit(self) -> int:
        return self._most + self._most // 8

    def _add(self, key: str) -> _AdapterStats:
        if len(self._stats) >= self._limit:
            excess = len(self._stats) - self._most
            for one in heapq.nsmallest(excess, self._stats, key=self.rate(HALF_LIVES[-1])):
                del self._stats[one]
        stats = self._stats[key] = _AdapterStats()
        return stats


def _relative_rate(rate: float, now: float) -> float | None:
    return None if rate == -inf else max(rate - now, LOWEST_RATE)


def _parse_row(row: Any, where: str) -> tuple[str, _AdapterStats]:
    """One adapter of a state, every value within its bounds."""
    values = parse.sequence(row, where)
    if len(values) != 4:
        raise FormatError(f"must have 4 values, not {len(values)}", where=where)
    key, stats = parse.text(values[0], where), _AdapterStats()
    if not 0 < len(key) <= LONGEST_KEY:
        raise FormatError(f"the key must have 1 to {LONGEST_KEY} characters, not {len(key)}", where=where)
    stats.weight = parse.integer(values[1], where, minimum=0, maximum=LARGEST_WEIGHT)
    stats.cost_ms = parse.optional(_COST_MS)(values[2], where)
    rates = parse.sequence(values[3], where)
    if len(rates) != len(HALF_LIVES):
        raise FormatError(f"must have {len(HALF_LIVES)} rates, not {len(rates)}", where=where)
    stats.rates = [-inf if rate is None else _RATE(rate, where) for rate in rates]
    return key, stats
