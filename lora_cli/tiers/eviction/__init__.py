"""Eviction policies; pure, without torch. ``registry`` has them by name.

Time is logical: a policy that needs a clock counts requests, so that a replay of a trace and the life that it was
recorded from are the same, and both can be repeated.
"""

from collections.abc import Iterator
from typing import Protocol


class EvictionPolicy(Protocol):
    """A policy gets the events of a tier, and gives the order of evictions.

    It is told of a request once it is answered, so never of one whose load failed. Request rates, bytes and load costs
    are in the ``PolicyContext`` that it is created with.
    """

    def hit(self, key: str) -> None:
        """``key`` was requested, and is loaded."""
        ...

    def loaded(self, key: str, *, ahead: bool) -> None:
        """``key`` was loaded, for a request or ``ahead`` of one."""
        ...

    def removed(self, key: str, *, evicted: bool) -> None:
        """``key`` was removed: ``evicted``, or discarded."""
        ...

    def eviction_order(self) -> Iterator[str]:
        """Every loaded key once, the first to evict first.

        The ledger skips leased, pinned and absent keys. It reports no events while it iterates.
        """
        ...
