"""Adaptive: several policies simulate the tier, and the one with the least cost is followed."""

from collections.abc import Callable, Iterator, Mapping
from math import log2

from lora_cli.tiers.access_history import HALF_LIVES, LONG_TERM
from lora_cli.tiers.budget import PolicyContext
from lora_cli.tiers.eviction import EvictionPolicy
from lora_cli.tiers.eviction.policies import Gdsf, Lru, Ranked, Windowed
from lora_cli.tiers.memory_accounting import Ledger

WINDOWS = (0.75, 0.5)
"""Parts of the tier that go by recency, for sessions over a popularity that lasts: without, up to 9 % more misses."""

LOSS_HALF_LIFE = 1_500
"""After so many requests the loss of a miss counts half. It matters little: with 500 there are 0.2 % fewer misses over
all families that it was chosen by, with 5,000 0.2 % more, and in none of them 1.2 % more or less."""

GROWTH = 2 ** (1 / LOSS_HALF_LIFE)

MARGIN = 0.98
"""Another expert leads when it lost less than this part of what the leader lost: equals do not take turns. With 0.95 up
to 3 % more misses, with 0.999 0.4 % fewer over all.
"""

LARGEST_UNIT = 1e100


def experts(view: PolicyContext) -> Mapping[str, EvictionPolicy]:
    """The policies that ``Adaptive`` chooses from, by name; the first one leads until another does better.

    ``lru`` for sessions, ``gdsf`` for sizes far apart, rates by each half-life times worth, for a popularity that
    stays or moves, and recency for a part of the tier over such a rate for what is between.
    """

    def dense(half_life: int) -> Callable[[str], float]:
        """The logarithm of what is saved a request, by the room that it takes."""
        rate, worth = view.history.rate(half_life), view.worth

        def score(key: str) -> float:
            return rate(key) + log2(worth(key))

        return score

    return {
        "lru": Lru(),
        "gdsf": Gdsf(view.worth),
        **{f"window-{window:g}": Windowed(dense(LONG_TERM), view.share, window) for window in WINDOWS},
        **{f"rate-{half_life}": Ranked(dense(half_life)) for half_life in HALF_LIVES},
    }


class Adaptive:
    """Follows the expert whose shadow, a ledger without values, lost least to misses recently.

    Every shadow simulates every request. A miss costs its load time, or what the objective says, so experts are scored
    by the objective and not by hits. The tier evicts keys that are not in the leader's shadow, then in the leader's
    order. Shadows ignore leases and pins; those bind the tier whatever is chosen.
    """

    def __init__(self, view: PolicyContext) -> None:
        self._view = view
        self._present: set[str] = set()
        self._shadows = {name: Ledger(view.budget, expert) for name, expert in experts(view).items()}
        self._losses = dict.fromkeys(self._shadows, 0.0)
        self._unit = 1.0
        self._rate = view.history.rate(LONG_TERM)
        self.leader = next(iter(self._shadows))

    def hit(self, key: str) -> None:
        """Simulate the request in every shadow."""
        self._simulate_request(key)

    def loaded(self, key: str, *, ahead: bool) -> None:
        """Simulate the request, if there was one, in every shadow."""
        self._present.add(key)
        if not ahead:
            self._simulate_request(key)

    def removed(self, key: str, *, evicted: bool) -> None:
        """``key`` left the tier; the shadows do not change."""
        self._present.discard(key)

    def eviction_order(self) -> Iterator[str]:
        """Keys that are not in the leader's shadow, the lowest rate first; then the leader's own order."""
        shadow = self._shadows[self.leader]
        surplus = [key for key in self._present if key not in shadow]
        yield from sorted(surplus, key=lambda key: (self._rate(key), key))
        yield from shadow.eviction.eviction_order()

    def _simulate_request(self, key: str) -> None:
        weight, loss = self._view.history.weight(key), self._view.loss(key)
        # Losses grow instead of all others being discounted: one product a request, not one for each expert.
        self._unit *= GROWTH
        if self._unit > LARGEST_UNIT:
            self._losses = {name: value / self._unit for name, value in self._losses.items()}
            self._unit = 1.0
        missed = False
        for name, shadow in self._shadows.items():
            if shadow.request(key, weight, loss) is not None:
                self._losses[name] += self._unit * loss
                missed = True
        if missed:
            self._choose_leader()

    def _choose_leader(self) -> None:
        """Choose the leader again."""
        best = min(self._losses, key=self._losses.__getitem__)
        if self._losses[best] < MARGIN * self._losses[self.leader]:
            self.leader = best
