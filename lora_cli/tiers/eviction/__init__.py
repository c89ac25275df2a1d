"""Eviction policies of a full tier, which are pure and import no torch; ``registry`` names them.

Time is logical: a policy that needs a clock counts requests, so that a replay of a trace and the life that it was
recorded from are the same, and both can be repeated.
"""

from collections.abc import Iterator
from typing import Protocol


class EvictionPolicy(Protocol):
    """A policy gets the events of a tier, and says in which order its adapters should leave.

    It learns of a request when it is answered, so it never sees one whose load failed. What it may know of a key
    besides (request rates, bytes, load cost) is in the ``View`` that it is made with.
    """

    def hit(self, key: str) -> None:
        """``key`` was asked for, and is here."""
        ...

    def loaded(self, key: str, *, ahead: bool) -> None:
        """``key`` was not here and is now: for the request that it was loaded for, or ``ahead`` of one."""
        ...

    def removed(self, key: str, *, evicted: bool) -> None:
        """``key`` is gone: to make room, or (not ``evicted``) because it was discarded."""
        ...

    def eviction_order(self) -> Iterator[str]:
        """Every key that is here, once, the first to leave first.

        The ledger takes the first ones that may leave (leased and pinned ones may not), and passes over keys that are
        not here. It looks before it acts: nothing else is reported to it while it iterates.
        """
        ...
