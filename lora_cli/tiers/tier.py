"""One tier: values by key within a budget. Room is made before a load, and a leased value is not evicted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from time import monotonic
from typing import Generic, TypeVar

from lora_cli.errors import MachineError
from lora_cli.tiers.memory_accounting import Counts, Ledger, TierBusy

T = TypeVar("T")


class Tier(Generic[T]):
    """A cache of values by key, which loads missing ones and evicts by the policy of its ledger.

    ``weigh`` gives the bytes of a key without loading it, and ``load`` its value. ``drop`` frees a value; it must be
    quick, because the tier is locked meanwhile. ``name_of`` gives a key's name in errors. Thread-safe: concurrent
    requests for a key share one load, and a load does not delay hits on other keys.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        weigh: Callable[[str], int],
        load: Callable[[str], T],
        drop: Callable[[str, T], None] = lambda _key, _value: None,
        name_of: Callable[[str], str] = str,
    ) -> None:
        self.budget = ledger.budget
        self._ledger = ledger
        self._weigh, self._load, self._drop, self._name_of = weigh, load, drop, name_of
        self._values: dict[str, T] = {}
        self._changed = Condition()

    @contextmanager
    def lease(self, key: str, *, timeout_s: float = 0.0) -> Iterator[T]:
        """The value of ``key``, loaded if it is missing, and not evicted before the block ends.

        If everything that could be evicted is leased or being loaded, it waits for room, up to ``timeout_s``.

        Raises:
            MachineError: it can never fit; ``TierBusy`` after ``timeout_s``.
        """
        self._acquire_lease(key, timeout_s)
        try:
            yield self._values[key]
        finally:
            with self._changed:
                self._ledger.release(key)
                self._changed.notify_all()

    def prefetch(self, key: str) -> bool:
        """Load ``key`` if there is room now; whether it was loaded. Not counted as a request. Raises as ``load``."""
        weight = self._weigh(key)
        with self._changed:
            if key in self._ledger:
                return False
            try:
                self._admit(key, weight)
            except MachineError:
                return False
        self._load_value(key, ahead=True)
        return True

    def is_loaded(self, key: str) -> bool:
        """Whether ``key`` is loaded."""
        return self._ledger.is_loaded(key)

    def keys(self) -> tuple[str, ...]:
        """The loaded keys, in the order of their loads."""
        with self._changed:
            return self._ledger.keys()

    def eviction_order(self) -> tuple[str, ...]:
        """The loaded keys, the first to be evicted first."""
        with self._changed:
            return self._ledger.eviction_order()

    def used_bytes(self) -> int:
        """Bytes of all values, loaded or being loaded."""
        return self._ledger.used_bytes

    def counts(self) -> Counts:
        """Hits, loads and evictions so far."""
        return self._ledger.counts()

    def pin(self, key: str) -> None:
        """Never evict ``key``, loaded already or later."""
        with self._changed:
            self._ledger.pin(key)

    def discard(self, key: str) -> None:
        """Drop ``key`` if it is loaded and not leased."""
        with self._changed:
            if self._ledger.discard(key):
                self._drop(key, self._values.pop(key))
                self._changed.notify_all()

    def _acquire_lease(self, key: str, timeout_s: float) -> None:
        """A lease on ``key``. A waiting caller has no leases on this tier."""
        weight = self._weigh(key)
        until = monotonic() + timeout_s
        with self._changed:
            while not self._ledger.is_loaded(key):
                if self._ledger.is_loading(key):
                    self._changed.wait()
                    continue
                try:
                    self._admit(key, weight)
                except TierBusy:
                    if not self._changed.wait(until - monotonic()):
                        raise
                else:
                    break
            else:
                self._ledger.hit(key)
                self._ledger.lease(key)
                return
        self._load_value(key, ahead=False)

    def _admit(self, key: str, weight: int) -> None:
        """Make room for ``key``, and mark it as loading."""
        evicted = self._ledger.admit(key, weight, self._name_of(key))
        try:
            for one in evicted:
                self._drop(one, self._values.pop(one))
        except BaseException:
            self._load_failed(key)
            raise

    def _load_value(self, key: str, *, ahead: bool) -> None:
        """Load ``key``, which was admitted; unless ``ahead``, with a lease on it."""
        try:
            value = self._load(key)
        except BaseException:
            with self._changed:
                self._load_failed(key)
            raise
        with self._changed:
            self._values[key] = value
            self._ledger.loaded(key, ahead=ahead)
            if not ahead:
                self._ledger.lease(key)
            self._changed.notify_all()

    def _load_failed(self, key: str) -> None:
        self._ledger.failed(key)
        self._changed.notify_all()
