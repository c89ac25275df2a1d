"""The contents of a tier and what it evicts: budget, leases and pins, without values, loads or threads."""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_cli.errors import MachineError
from lora_cli.tiers.access_history import History
from lora_cli.tiers.budget import Budget
from lora_cli.tiers.eviction import EvictionPolicy


class TierBusy(MachineError):
    """There is no room now; there may be when leases or loads end."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a tier did since it began. ``loads`` counts successful ones only."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0


class Ledger:
    """Keeps the books of one tier; the tier itself, a replay of a trace and a policy's shadows all use this one.

    A key is absent, coming (its bytes are counted, its load is under way) or here. Who leaves is chosen before anybody
    does: an ``admit`` that fails changes nothing. ``history``, if given, records requests and loads.
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

    def request(self, key: str, weight: int, cost_ms: float) -> tuple[str, ...] | None:
        """A whole request at once: None for a hit; else an admission and a load that succeeds, and who left for it.

        Raises as ``admit`` does.
        """
        if key in self._weights:
            self.hit(key)
            return None
        evicted = self.admit(key, weight)
        self.loaded(key, cost_ms)
        return evicted

    def hit(self, key: str) -> None:
        """``key``, which is here, was asked for."""
        self._hits += 1
        if self._history is not None:
            self._history.record_request(key)
        self.eviction.hit(key)

    def admit(self, key: str, weight: int, name: str = "") -> tuple[str, ...]:
        """Make room for ``key``, which is absent, and have it coming; gives back who left, in that order.

        ``name`` is its name in errors, where that is another one.

        Raises:
            Busy: what is in the way is leased or coming.
            MachineError: it can never fit, alone or next to what is pinned.
        """
        fits = self.budget.fits(len(self._weights), self.used_bytes, weight)
        evicted = () if fits else tuple(self._make_room(name or key, weight))
        for one in evicted:
            self._remove(one, evicted=True)
        self._evictions += len(evicted)
        self._weights[key] = weight
        self.used_bytes += weight
        self._loading.add(key)
        return evicted

    def loaded(self, key: str, cost_ms: float, *, ahead: bool = False) -> None:
        """``key``, which was coming, is here: for a request that is answered now, or ``ahead`` of one."""
        self._loading.remove(key)
        self._loads += 1
        if self._history is not None:
            self._history.record_load(key, self._weights[key], cost_ms)
            if not ahead:
                self._history.record_request(key)
        self.eviction.loaded(key, ahead=ahead)

    def failed(self, key: str) -> None:
        """``key``, which was coming, will not come."""
        self._loading.remove(key)
        self.used_bytes -= self._weights.pop(key)

    def discard(self, key: str) -> bool:
        """Let go of ``key`` if it is here and not leased, pinned or not; whether it was."""
        if not self.is_loaded(key) or key in self._leases:
            return False
        self._remove(key, evicted=False)
        return True

    def lease(self, key: str) -> None:
        """Keep ``key`` from leaving until ``release``; as often as it is leased."""
        self._leases[key] = self._leases.get(key, 0) + 1

    def release(self, key: str) -> None:
        """End one lease."""
        self._leases[key] -= 1
        if not self._leases[key]:
            del self._leases[key]

    def pin(self, key: str) -> None:
        """Never evict ``key``, whether it is here yet or not."""
        self._pinned.add(key)

    def is_loaded(self, key: str) -> bool:
        """Whether ``key`` is here."""
        return key in self._weights and key not in self._loading

    def is_loading(self, key: str) -> bool:
        """Whether ``key`` is on its way."""
        return key in self._loading

    def __contains__(self, key: str) -> bool:
        return key in self._weights

    def keys(self) -> tuple[str, ...]:
        """Who is here, in the order in which they came."""
        return tuple(key for key in self._weights if key not in self._loading)

    def counts(self) -> Counts:
        """Hits, loads and evictions so far."""
        return Counts(self._hits, self._loads, self._evictions)

    def _make_room(self, name: str, weight: int) -> Iterator[str]:
        """Who has to leave, found without a change; all of them are asked for before the first one goes."""
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

    def _remove(self, key: str, *, evicted: bool) -> None:
        self.used_bytes -= self._weights.pop(key)
        self.eviction.removed(key, evicted=evicted)

    def _full_error(self, name: str, weight: int) -> MachineError:
        """Why the adapter of that name cannot come: never, or not now."""
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
