"""One tier: named values within a budget. It weighs before it loads, makes room first, and leases pin."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeVar, cast

from lora_cli.errors import MachineError
from lora_cli.tiers.eviction import Eviction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tier may hold at once: ``items`` values, and ``max_bytes`` together (None: only ``items`` counts)."""

    items: int
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Lease(Generic[T]):
    """A value that stays where it is until the lease ends. ``hit`` says that it was there already."""

    value: T
    hit: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """What a tier did since it began. ``loads`` counts successful ones only."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0


@dataclass(slots=True)
class _Entry:
    weight: int
    leases: int
    ready: bool = False
    value: object = None


class Tier(Generic[T]):
    """Holds values by key, loads what is missing, and lets go of what the eviction policy names.

    ``weigh`` gives a key's bytes without loading it; ``load`` makes the value; ``drop`` takes back what a value holds
    and must be quick, because it runs while the tier is locked. Safe to use from several threads: a key asked for by
    many at once is loaded once, and a load does not delay hits on other keys.
    """

    def __init__(
        self,
        name: str,
        budget: Budget,
        eviction: Eviction,
        *,
        weigh: Callable[[str], int],
        load: Callable[[str], T],
        drop: Callable[[str, T], None] = lambda _key, _value: None,
    ) -> None:
        self.name = name
        self.budget = budget
        self._eviction = eviction
        self._weigh, self._load, self._drop = weigh, load, drop
        self._entries: dict[str, _Entry] = {}
        self._pinned: set[str] = set()
        self._changed = Condition()
        self._hits = self._loads = self._evictions = 0

    @contextmanager
    def lease(self, key: str) -> Iterator[Lease[T]]:
        """The value of ``key``, loaded if it is not here, and not evicted before the block ends.

        Raises:
            MachineError: it can never fit, or nothing that is in its way may leave now.
        """
        entry, hit = self._enter(key)
        try:
            yield Lease(cast(T, entry.value), hit)
        finally:
            with self._changed:
                entry.leases -= 1
                self._changed.notify_all()

    def holds(self, key: str) -> bool:
        """Whether ``key`` is here, loaded."""
        entry = self._entries.get(key)
        return entry is not None and entry.ready

    def keys(self) -> tuple[str, ...]:
        """What is here, loaded, in the order in which it came."""
        with self._changed:
            return tuple(key for key, entry in self._entries.items() if entry.ready)

    def used_bytes(self) -> int:
        """Bytes of all that is here or on its way."""
        return sum(entry.weight for entry in list(self._entries.values()))

    def counts(self) -> Counts:
        """Hits, loads and evictions so far."""
        return Counts(self._hits, self._loads, self._evictions)

    def pin(self, key: str) -> None:
        """Never evict ``key``, whether it is here yet or not."""
        with self._changed:
            self._pinned.add(key)

    def discard(self, key: str) -> None:
        """Let go of ``key`` if it is here and nobody holds a lease on it."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is not None and entry.ready and not entry.leases:
                self._let_go(key)

    def _enter(self, key: str) -> tuple[_Entry, bool]:
        weight = self._weigh(key)
        with self._changed:
            self._eviction.seen(key)
            while (entry := self._entries.get(key)) is not None and not entry.ready:
                self._changed.wait()
            if entry is not None:
                entry.leases += 1
                self._hits += 1
                return entry, True
            self._make_room(key, weight)
            entry = self._entries[key] = _Entry(weight, leases=1)
        self._fill(key, entry)
        return entry, False

    def _fill(self, key: str, entry: _Entry) -> None:
        try:
            entry.value = self._load(key)
            entry.ready = True
        finally:
            with self._changed:
                if entry.ready:
                    self._loads += 1
                else:
                    del self._entries[key]
                    self._eviction.gone(key)
                self._changed.notify_all()

    def _make_room(self, key: str, weight: int) -> None:
        self._refuse_what_never_fits(key, weight)
        while not self._fits(weight):
            free = [held for held, entry in self._entries.items() if self._may_leave(held, entry)]
            if not free:
                raise MachineError(
                    f"no room for {key} in the {self.name} tier: all {len(self._entries)} adapters there are in use "
                    "or pinned",
                    hint="raise the tier's size, or pin fewer adapters",
                )
            self._let_go(self._eviction.victim(free))
            self._evictions += 1

    def _refuse_what_never_fits(self, key: str, weight: int) -> None:
        limit = self.budget.max_bytes
        if self.budget.items < 1:
            raise MachineError(f"no room for {key}: the {self.name} tier holds no adapters at all")
        if limit is not None and weight > limit:
            raise MachineError(
                f"no room for {key} in the {self.name} tier: it needs {weight} bytes and the tier has {limit}, "
                f"{weight - limit} short",
                hint="raise the tier's bytes",
            )

    def _fits(self, weight: int) -> bool:
        limit = self.budget.max_bytes
        return len(self._entries) < self.budget.items and (limit is None or self.used_bytes() + weight <= limit)

    def _may_leave(self, key: str, entry: _Entry) -> bool:
        return entry.ready and not entry.leases and key not in self._pinned

    def _let_go(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._eviction.gone(key)
        self._drop(key, cast(T, entry.value))
