"""The contents of a tier and what it evicts: budget, leases and pins, without values, loads or threads.

The order of evictions is that of a policy (``tiers.eviction``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from lora_cli.errors import MachineError
from lora_cli.tiers.access_history import History


@dataclass(frozen=True, slots=True)
class Budget:
    """The capacity of a tier: ``items`` values, with ``max_bytes`` in all (None: only ``items`` counts)."""

    items: int
    max_bytes: int | None = None

    def fits(self, items: int, used_bytes: int, weight: int) -> bool:
        """Whether one more item of ``weight`` bytes fits next to ``items`` items of ``used_bytes``."""
        return items < self.items and (self.max_bytes is None or used_bytes + weight <= self.max_bytes)


class EvictionPolicy(Protocol):
    """A policy gets the events of a tier, and gives the order of evictions.

    It is told of a request once it is answered, so never of one whose load failed.
    """

    def hit(self, key: str) -> None:
        """``key`` was requested, and is loaded."""
        ...

    def loaded(self, key: str) -> None:
        """``key`` was loaded, for a request or ahead of one."""
        ...

    def removed(self, key: str) -> None:
        """``key`` was evicted or discarded."""
        ...

    def eviction_order(self) -> Iterator[str]:
        """Every loaded key once, the first to evict first.

        The ledger skips leased, pinned and absent keys. It reports no events while it iterates.
        """
        ...


class TierBusy(MachineError):
    """There is no room until leases or loads end."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The counters of a tier. ``loads`` counts successful ones only."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0


class Ledger:
    """The accounting of one tier; also used by simulations.

    A key is absent, loading (its bytes are counted) or loaded. Evictions are chosen before any is done: an ``admit``
    that fails changes nothing. ``history``, if given, records requests.
    """

    def __init__(
        self, budget: Budget, eviction: EvictionPolicy, history: History | None = None, name: str = ""
    ) -> None:
        self.budget, self.eviction, self.name = budget, eviction, name
        self.used_bytes = 0
        self._history = history
        self._weights: dict[str, int] = {}
        self._loading: set[str] = set()
        self._leases: dict[str, int] = {}
        self._pinned: set[str] = set()
        self._hits = self._loads = self._evictions = 0

    def request(self, key: str, weight: int) -> tuple[str, ...] | None:
        """A complete request: None for a hit; else it is admitted and loaded, and the evicted keys are returned.

        Raises as ``admit`` does.
        """
        if key in self._weights:
            self.hit(key)
            return None
        evicted = self.admit(key, weight)
        self.loaded(key)
        return evicted

    def hit(self, key: str) -> None:
        """Count a request for ``key``, which is loaded."""
        self._hits += 1
        if self._history is not None:
            self._history.record_request(key)
        self.eviction.hit(key)

    def admit(self, key: str, weight: int, name: str = "") -> tuple[str, ...]:
        """Make room for ``key``, which is absent, and mark it as loading; returns the evicted keys in order.

        ``name`` is its name in errors, if it differs.

        Raises:
            TierBusy: the keys to evict are leased or loading.
            MachineError: it can never fit, alone or next to pinned keys.
        """
        fits = self.budget.fits(len(self._weights), self.used_bytes, weight)
        evicted = () if fits else tuple(self._make_room(name or key, weight))
        for one in evicted:
            self._remove(one)
        self._evictions += len(evicted)
        self._weights[key] = weight
        self.used_bytes += weight
        self._loading.add(key)
        return evicted

    def loaded(self, key: str, *, ahead: bool = False) -> None:
        """``key`` was loaded, for a request or ``ahead`` of one."""
        self._loading.remove(key)
        self._loads += 1
        if self._history is not None and not ahead:
            self._history.record_request(key)
        self.eviction.loaded(key)

    def failed(self, key: str) -> None:
        """The load of ``key`` failed."""
        self._loading.remove(key)
        self.used_bytes -= self._weights.pop(key)

    def discard(self, key: str) -> bool:
        """Remove ``key`` if it is loaded and not leased, even if pinned; whether it was removed."""
        if not self.is_loaded(key) or key in self._leases:
            return False
        self._remove(key)
        return True

    def lease(self, key: str) -> None:
        """Protect ``key`` from eviction until its ``release``; leases are counted."""
        self._leases[key] = self._leases.get(key, 0) + 1

    def release(self, key: str) -> None:
        """End one lease."""
        self._leases[key] -= 1
        if not self._leases[key]:
            del self._leases[key]

    def pin(self, key: str) -> None:
        """Never evict ``key``, loaded already or later."""
        self._pinned.add(key)

    def is_loaded(self, key: str) -> bool:
        """Whether ``key`` is loaded."""
        return key in self._weights and key not in self._loading

    def is_loading(self, key: str) -> bool:
        """Whether ``key`` is being loaded."""
        return key in self._loading

    def __contains__(self, key: str) -> bool:
        return key in self._weights

    def keys(self) -> tuple[str, ...]:
        """The loaded keys, in the order of their loads."""
        return tuple(key for key in self._weights if key not in self._loading)

    def eviction_order(self) -> tuple[str, ...]:
        """The loaded keys, the first to be evicted first, leased and pinned ones too."""
        return tuple(filter(self.is_loaded, self.eviction.eviction_order()))

    def counts(self) -> Counts:
        """Hits, loads and evictions so far."""
        return Counts(self._hits, self._loads, self._evictions)

    def _make_room(self, name: str, weight: int) -> Iterator[str]:
        """The keys to evict; nothing is changed until all are known."""
        items, used = len(self._weights), self.used_bytes
        for one in filter(self._is_evictable, self.eviction.eviction_order()):
            yield one
            items -= 1
            used -= self._weights[one]
            if self.budget.fits(items, used, weight):
                return
        raise self._full_error(name, weight)

    def _is_evictable(self, key: str) -> bool:
        return key in self._weights and key not in self._loading and key not in self._leases and key not in self._pinned

    def _remove(self, key: str) -> None:
        self.used_bytes -= self._weights.pop(key)
        self.eviction.removed(key)

    def _full_error(self, name: str, weight: int) -> MachineError:
        """The error if ``name`` does not fit: permanently, or now."""
        place, limit = f"no room for {name} in the {self.name} tier", self.budget.max_bytes
        pinned = [self._weights[one] for one in self._pinned if one in self._weights]
        if self.budget.items < 1:
            return MachineError(f"no room for {name}: the {self.name} tier has no slots")
        if limit is not None and weight + sum(pinned) > limit:
            taken = f", of which {sum(pinned)} are pinned" if pinned else ""
            short = weight + sum(pinned) - limit
            return MachineError(
                f"{place}: it needs {weight} bytes and the tier has {limit}{taken}, {short} too few",
                hint="raise the tier's bytes" + (", or pin fewer adapters" if pinned else ""),
            )
        if len(pinned) >= self.budget.items:
            return MachineError(
                f"{place}: all {len(pinned)} adapters there are pinned",
                hint="raise the tier's size, or pin fewer adapters",
            )
        kept = "in use or pinned" if pinned else "in use"
        return TierBusy(
            f"{place}: all {len(self._weights)} adapters there are {kept}",
            hint="raise the tier's size" + (", or pin fewer adapters" if pinned else ""),
        )
