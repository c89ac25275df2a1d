"""One tier: values by key within a budget. Room is made before a load, and a leased value is not evicted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from time import monotonic
from typing import Generic, TypeVar

from lora_cli.warm.eviction import Ledger, TierBusy

T = TypeVar("T")


class Tier(Generic[T]):
    """A cache of values by key, which evicts by the policy of its ledger.

    ``drop`` frees a value; it must be quick, because the tier is locked meanwhile. Thread-safe: concurrent requests for
    a key share one load, and a load does not delay hits on other keys.
    """

    def __init__(self, ledger: Ledger, drop: Callable[[T], None] = lambda _value: None) -> None:
        self._ledger, self._drop = ledger, drop
        self._values: dict[str, T] = {}
        self._changed = Condition()

    @contextmanager
    def lease(
        self, key: str, weight: int, load: Callable[[], T], *, name: str = "", timeout_s: float = 0.0
    ) -> Iterator[T]:
        """The value of ``key``, loaded by ``load`` if it is missing, and not evicted before the block ends.

        It takes ``weight`` bytes. If everything that could be evicted is leased or being loaded, it waits for room, up
        to ``timeout_s``. ``name`` is what errors call it.

        Raises:
            MachineError: it can never fit; ``TierBusy`` after ``timeout_s``. And what ``load`` raises.
        """
        if not self._is_leased_now(key, weight, name, monotonic() + timeout_s):
            self._load(key, load)
        try:
            yield self._values[key]
        finally:
            with self._changed:
                self._ledger.leases[key] -= 1
                self._changed.notify_all()

    def is_loaded(self, key: str) -> bool:
        """Whether ``key`` is loaded."""
        return self._ledger.is_loaded(key)

    def pin(self, key: str) -> None:
        """Never evict ``key``, loaded already or later."""
        self._ledger.pinned.add(key)

    def discard(self, key: str) -> None:
        """Drop ``key`` if it is loaded and not leased, and unpin it."""
        with self._changed:
            if self._ledger.discard(key):
                self._drop(self._values.pop(key))
                self._changed.notify_all()

    def eviction_order(self) -> tuple[str, ...]:
        """The loaded keys, the first to be evicted first."""
        with self._changed:
            return tuple(self._ledger.policy.eviction_order())

    def status(self) -> dict[str, int | None]:
        """What is in the tier, the most that may be, and its counters."""
        with self._changed:
            books, limit = self._ledger, self._ledger.budget
            return {
                "adapters": len(self._values),
                "most": limit.items,
                "bytes": books.used_bytes,
                "max_bytes": limit.max_bytes,
                "hits": books.hits,
                "loads": books.loads,
                "evictions": books.evictions,
            }

    def _is_leased_now(self, key: str, weight: int, name: str, until: float) -> bool:
        """Lease ``key`` if it is loaded; else make room for it, and mark it as loading."""
        with self._changed:
            while not self._ledger.is_loaded(key):
                if key in self._ledger.loading:
                    self._changed.wait()
                    continue
                try:
                    for one in self._ledger.admit(key, weight, name):
                        self._drop(self._values.pop(one))
                except TierBusy:
                    if not self._changed.wait(max(0.0, until - monotonic())):
                        raise
                else:
                    return False
            self._ledger.hit(key)
            self._ledger.leases[key] += 1
            return True

    def _load(self, key: str, load: Callable[[], T]) -> None:
        try:
            value = load()
        except BaseException:
            with self._changed:
                self._ledger.failed(key)
                self._changed.notify_all()
            raise
        with self._changed:
            self._values[key] = value
            self._ledger.loaded(key)
            self._ledger.leases[key] += 1
            self._changed.notify_all()
